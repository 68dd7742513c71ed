//! What must hold between the statements of a job: names that exist, and outputs that do not share a directory.

use super::{
    job::{Insert, Job},
    locate::Relation,
    table::{Connector, Table},
};
use crate::error::{Error, Place, Result, nearest};

/// What each view and each insert reads, in the order of the job's own lists.
#[derive(Debug, Default)]
pub struct Relations {
    pub views: Vec<Vec<Relation>>,
    pub inserts: Vec<Vec<Relation>>,
}

/// Checks the job as a whole.
///
/// # Errors
/// `Invalid` at the name or the table that is wrong.
pub fn job(job: &Job, relations: &Relations) -> Result<()> {
    for (index, read) in relations.views.iter().enumerate() {
        for relation in read {
            readable(job, relation)?;
            let later = job.views[index..].iter().any(|view| view.name.eq_ignore_ascii_case(&relation.name));
            if later {
                let error = Error::invalid(format!("the view '{}' is used before it is declared", relation.name));
                return Err(error.at(relation.place.clone()).help("move its CREATE VIEW up"));
            }
        }
    }
    for (index, (insert, read)) in job.inserts.iter().zip(&relations.inserts).enumerate() {
        let target = target(job, insert)?;
        job.emit(insert)?;
        for relation in read {
            readable(job, relation)?;
            if relation.name.eq_ignore_ascii_case(&insert.target) {
                let error = Error::invalid(format!("'{}' is read and written by the same query", relation.name));
                return Err(error.at(relation.place.clone()).help("write to another table"));
            }
        }
        for other in &job.inserts[..index] {
            match job.table(&other.target) {
                Some(same) if same.name == target.name && target.checkpoint_location().is_some() => {
                    let message =
                        format!("'{}' is written by the query of line {} already", same.name, other.place.line);
                    let error = Error::invalid(message).at(insert.target_place.clone());
                    return Err(error.help("use one INSERT with UNION ALL: a query has a checkpoint of its own"));
                }
                Some(earlier) => disjoint(target, earlier)?,
                None => {}
            }
        }
    }
    Ok(())
}

/// The table or view exists, and can be read.
fn readable(job: &Job, relation: &Relation) -> Result<()> {
    let name = &relation.name;
    if job.view(name).is_some() {
        return Ok(());
    }
    let Some(table) = job.table(name) else { return Err(unknown(job, name, &relation.place)) };
    match &table.connector {
        Connector::Kafka(kafka) if kafka.subscription.is_none() => {
            let topic = kafka.topic.as_deref().unwrap_or("topic");
            let error = Error::invalid(format!("the Kafka table '{name}' does not say what to read"));
            Err(error.at(relation.place.clone()).help(format!("add subscribe = '{topic}' to its options")))
        }
        Connector::Console(_) => {
            let error = Error::invalid(format!("'{name}' is a console table, which can only be written to"));
            Err(error.at(relation.place.clone()))
        }
        Connector::Kafka(_) | Connector::File(_) => Ok(()),
    }
}

fn unknown(job: &Job, name: &str, place: &Place) -> Error {
    let tables = job.tables.iter().map(|table| table.name.as_str());
    let names: Vec<&str> = tables.chain(job.views.iter().map(|view| view.name.as_str())).collect();
    let error = Error::invalid(format!("there is no table '{name}' in this file")).at(place.clone());
    match nearest(name, names.iter().copied()) {
        Some(near) => error.help(format!("did you mean '{near}'?")),
        None if names.is_empty() => error.help("declare it with CREATE TABLE"),
        None => error.help(format!("it declares {}", names.join(", "))),
    }
}

/// The table that an insert writes to.
fn target<'a>(job: &'a Job, insert: &Insert) -> Result<&'a Table> {
    let (name, place) = (&insert.target, &insert.target_place);
    if let Some(view) = job.view(name) {
        let message = format!("'{name}' is a view (line {}), and a view cannot be written to", view.place.line);
        return Err(Error::invalid(message).at(place.clone()));
    }
    let table = job.table(name).ok_or_else(|| unknown(job, name, place))?;
    let needs = match &table.connector {
        Connector::Kafka(kafka) if kafka.topic.is_none() && kafka.subscription.is_some() => {
            let error = Error::invalid(format!("the Kafka table '{name}' is only read")).at(place.clone());
            return Err(error.help("add topic = '...' to its options, the topic to write to"));
        }
        Connector::Kafka(_) => "Kafka",
        Connector::File(_) => "file",
        Connector::Console(_) => return Ok(table),
    };
    if table.checkpoint_location().is_none() {
        let error = Error::invalid(format!("the {needs} table '{name}' is written to and has no checkpointLocation"));
        let error = error.at(table.place.clone());
        return Err(error.help("add checkpointLocation = '...', a directory of its own where progress is kept"));
    }
    Ok(table)
}

/// Two queries must not share a checkpoint or an output directory. `later` is the one to complain about.
fn disjoint(later: &Table, earlier: &Table) -> Result<()> {
    let clean = |path: &str| path.trim().trim_end_matches('/').to_owned();
    let shared = |option: &str, path: &str| {
        let line = earlier.place_of(option).line;
        let message = format!("the {option} '{path}' is also that of '{}', in line {line}", earlier.name);
        Err(Error::invalid(message).at(later.place_of(option)).help("give each its own directory"))
    };
    if let (Some(a), Some(b)) = (later.checkpoint_location(), earlier.checkpoint_location())
        && clean(a) == clean(b)
    {
        return shared("checkpointLocation", a);
    }
    if let (Connector::File(a), Connector::File(b)) = (&later.connector, &earlier.connector)
        && clean(&a.path) == clean(&b.path)
    {
        return shared("path", &a.path);
    }
    Ok(())
}
