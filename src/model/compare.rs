//! Models side by side, as rows for a table.

use std::sync::Arc;

use arrow::{
    array::{ArrayRef, Float64Array, RecordBatch, StringArray, UInt64Array},
    datatypes::{DataType, Field, Schema},
};

use super::registry::{Registry, Stored};
use crate::error::Result;

/// Every revision of every model, or of one: what it predicts, how well, and whether it is served.
///
/// # Errors
/// As `Registry::load`; `NotFound` for a name that there is not.
pub fn list(registry: &Registry, name: Option<&str>) -> Result<RecordBatch> {
    let names = match name {
        Some(name) => vec![registry.load(&format!("{name}@{}", super::registry::NEWEST))?.model.name],
        None => registry.names()?,
    };
    let mut rows = Vec::new();
    for name in names {
        let served = registry.load(&name)?.revision;
        for revision in registry.revisions(&name)? {
            rows.push((registry.load(&format!("{name}@{revision}"))?, revision == served));
        }
    }
    let text = |get: fn(&Stored) -> String| -> ArrayRef {
        Arc::new(StringArray::from_iter_values(rows.iter().map(|(stored, _)| get(stored))))
    };
    let number = |get: fn(&Stored) -> Option<f64>| -> ArrayRef {
        Arc::new(rows.iter().map(|(stored, _)| get(stored)).collect::<Float64Array>())
    };
    let columns: Vec<(&str, ArrayRef)> = vec![
        ("model", text(|stored| stored.model.name.clone())),
        ("revision", Arc::new(UInt64Array::from_iter_values(rows.iter().map(|(stored, _)| stored.revision)))),
        ("served", Arc::new(arrow::array::BooleanArray::from_iter(rows.iter().map(|(_, served)| Some(*served))))),
        ("created", text(|stored| stored.model.created.clone())),
        ("target", text(|stored| stored.model.target.name.clone())),
        ("features", text(|stored| stored.model.term_names().join(", "))),
        ("rows", Arc::new(UInt64Array::from_iter_values(rows.iter().map(|(stored, _)| stored.model.training.rows)))),
        ("rmse", number(|stored| stored.model.test.as_ref().map(|test| test.model.rmse))),
        ("r2", number(|stored| stored.model.test.as_ref().and_then(|test| test.model.r2))),
        ("skill", number(skill)),
    ];
    let fields: Vec<Field> =
        columns.iter().map(|(name, column)| Field::new(*name, column.data_type().clone(), true)).collect();
    let columns = columns.into_iter().map(|(_, column)| column).collect();
    Ok(RecordBatch::try_new(Arc::new(Schema::new(fields)), columns)?)
}

/// Against the last value, or the mean where there is none.
fn skill(stored: &Stored) -> Option<f64> {
    let test = stored.model.test.as_ref()?;
    test.last_value.map_or(test.mean.skill, |baseline| baseline.skill)
}

/// What differs between two models: `what`, and a column for each, named after it. What is the same is left out.
///
/// # Errors
/// `Internal` from Arrow.
pub fn diff(left: &Stored, right: &Stored) -> Result<RecordBatch> {
    let (left_facts, right_facts) = (facts(left), facts(right));
    let mut names: Vec<&String> = left_facts.iter().map(|(name, _)| name).collect();
    names
        .extend(right_facts.iter().map(|(name, _)| name).filter(|name| left_facts.iter().all(|(own, _)| own != *name)));
    let find = |facts: &[(String, String)], name: &str| {
        facts.iter().find(|(own, _)| own == name).map(|(_, value)| value.clone())
    };
    let rows: Vec<(&str, Option<String>, Option<String>)> = names
        .into_iter()
        .map(|name| (name.as_str(), find(&left_facts, name), find(&right_facts, name)))
        .filter(|(_, left, right)| left != right)
        .collect();
    let reference = |stored: &Stored| format!("{}@{}", stored.model.name, stored.revision);
    let mut names = [reference(left), reference(right)];
    if names[0] == names[1] {
        names[1].push_str(" again");
    }
    let fields = [Field::new("what", DataType::Utf8, false)]
        .into_iter()
        .chain(names.map(|name| Field::new(name, DataType::Utf8, true)))
        .collect::<Vec<_>>();
    let columns: Vec<ArrayRef> = vec![
        Arc::new(StringArray::from_iter_values(rows.iter().map(|row| row.0))),
        Arc::new(rows.iter().map(|row| row.1.as_deref()).collect::<StringArray>()),
        Arc::new(rows.iter().map(|row| row.2.as_deref()).collect::<StringArray>()),
    ];
    Ok(RecordBatch::try_new(Arc::new(Schema::new(fields)), columns)?)
}

/// All that may differ, by name.
fn facts(stored: &Stored) -> Vec<(String, String)> {
    let model = &stored.model;
    let mut facts: Vec<(String, String)> = Vec::new();
    let mut add = |name: &str, value: String| facts.push((name.to_owned(), value));
    add("created", model.created.clone());
    add("program", model.tidemill.clone());
    add("source", model.source.clone());
    if let Some(query) = &model.query {
        add("query", query.clone());
    }
    add("target", format!("{} {}", model.target.name, model.target.data_type));
    for feature in &model.features {
        let values = feature.vocabulary.as_ref().map_or(String::new(), |values| format!(" of {}", values.join("|")));
        let unit = feature.unit.as_ref().map_or(String::new(), |unit| format!(" in {unit}"));
        add(&format!("feature {}", feature.name), format!("{}{values}{unit}", feature.data_type));
    }
    add("intercept", if model.fit_intercept { model.intercept.to_string() } else { "none".to_owned() });
    for (term, value) in model.term_names().iter().zip(&model.coefficients) {
        add(&format!("coefficient {term}"), value.to_string());
    }
    let penalty = model.penalty;
    add("regParam", penalty.reg_param.to_string());
    add("elasticNetParam", penalty.elastic_net_param.to_string());
    add("standardization", penalty.standardization.to_string());
    let training = &model.training;
    add("rows trained", training.rows.to_string());
    add("rows dropped", training.counts.dropped.to_string());
    add("split", format!("{}, seed {}, fraction {}", training.split, training.seed, training.test_fraction));
    if let Some(weight) = &training.weight {
        add("weight", weight.clone());
    }
    if let Some(half_life) = training.half_life {
        add("half-life", format!("{half_life:?}"));
    }
    if let Some(time) = &training.time {
        add("time", format!("{} from {} to {}", time.column, time.from, time.to));
    }
    for range in &training.ranges {
        add(&format!("range {}", range.column), format!("{} .. {}", range.min, range.max));
    }
    add("training RMSE", model.train.rmse.to_string());
    add("training R2", model.train.r2.to_string());
    if let Some(test) = &model.test {
        add("rows tested", test.rows.to_string());
        add("test RMSE", test.model.rmse.to_string());
        add("test MAE", test.model.mae.to_string());
        for (name, baseline) in
            [("mean", Some(test.mean)), ("value before", test.last_value), ("season before", test.seasonal)]
        {
            if let Some(skill) = baseline.and_then(|baseline| baseline.skill) {
                add(&format!("skill against the {name}"), skill.to_string());
            }
        }
    }
    add("warnings", model.warnings.len().to_string());
    facts
}

#[cfg(test)]
mod tests {
    use arrow::array::AsArray;

    use super::*;
    use crate::model::artifact::tests::model;

    #[test]
    fn shows_what_differs_and_who_is_served() {
        let directory = tempfile::tempdir().unwrap();
        let registry = Registry::new(directory.path());
        let first = registry.save(model()).unwrap();
        let mut other = model();
        other.coefficients[1] = 7.5;
        other.features[0].unit = Some("USD".to_owned());
        let second = registry.save(other).unwrap();
        registry.promote("sell@1").unwrap();
        let differences = diff(&first, &second).unwrap();
        let column = |at: usize| {
            differences.column(at).as_string::<i32>().iter().flatten().map(str::to_owned).collect::<Vec<_>>()
        };
        assert_eq!(column(0), ["feature price", "coefficient volume"]);
        assert_eq!(column(1), ["Float64", "-0.25"]);
        assert_eq!(column(2), ["Float64 in USD", "7.5"]);
        assert_eq!(diff(&first, &first).unwrap().num_rows(), 0);
        let listed = list(&registry, None).unwrap();
        let served: Vec<bool> = listed.column(2).as_boolean().iter().flatten().collect();
        assert_eq!(served, [true, false]);
        assert!(list(&registry, Some("sel")).unwrap_err().to_string().contains("did you mean 'sell'?"));
    }
}
