//! A writer's Avro schema (the JSON text of the specification, 1.12) as a table of types.

use std::collections::HashMap;

use arrow::datatypes::TimeUnit;
use serde_json::Value;

/// Types of one schema; a type names another by its index, so that recursive schemas are finite.
#[derive(Debug)]
pub(super) struct AvroSchema {
    pub types: Vec<AvroType>,
    pub root: usize,
}

#[derive(Debug)]
pub(super) struct AvroType {
    pub shape: Shape,
    pub logical: Logical,
}

#[derive(Debug)]
pub(super) enum Shape {
    Null,
    Boolean,
    Int,
    Long,
    Float,
    Double,
    Bytes,
    String,
    Fixed(usize),
    Enum(Vec<String>),
    Array(usize),
    Map(usize),
    Union(Vec<usize>),
    Record(Vec<(String, usize)>),
}

/// What the bytes stand for, as far as a column can tell.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Logical {
    None,
    Date,
    Timestamp(TimeUnit),
    Decimal { scale: i8 },
}

/// Types in one schema; a registry refuses schemas that are nearly as large.
const TYPES_MAX: usize = 10_000;

impl AvroSchema {
    /// # Errors
    /// A sentence that says what is wrong with the text.
    pub fn parse(text: &str) -> Result<Self, String> {
        let json: Value = serde_json::from_str(text).map_err(|error| format!("no JSON: {error}"))?;
        let mut parser = Parser { types: Vec::new(), names: HashMap::new() };
        let root = parser.any(&json, "")?;
        if !matches!(parser.types[root].shape, Shape::Record(_)) {
            return Err("its top level is no record".to_owned());
        }
        Ok(Self { types: parser.types, root })
    }
}

struct Parser {
    types: Vec<AvroType>,
    /// Full names.
    names: HashMap<String, usize>,
}

impl Parser {
    fn add(&mut self, shape: Shape, logical: Logical) -> Result<usize, String> {
        if self.types.len() == TYPES_MAX {
            return Err(format!("more than {TYPES_MAX} types"));
        }
        self.types.push(AvroType { shape, logical });
        Ok(self.types.len() - 1)
    }

    fn any(&mut self, json: &Value, namespace: &str) -> Result<usize, String> {
        match json {
            Value::String(name) => self.named(name, namespace, Logical::None),
            Value::Array(branches) => {
                let branches = branches.iter().map(|branch| self.any(branch, namespace)).collect::<Result<_, _>>()?;
                self.add(Shape::Union(branches), Logical::None)
            }
            Value::Object(_) => self.object(json, namespace),
            other => Err(format!("{other} is no type")),
        }
    }

    /// A primitive type, or one that was defined before.
    fn named(&mut self, name: &str, namespace: &str, logical: Logical) -> Result<usize, String> {
        let shape = match name {
            "null" => Shape::Null,
            "boolean" => Shape::Boolean,
            "int" => Shape::Int,
            "long" => Shape::Long,
            "float" => Shape::Float,
            "double" => Shape::Double,
            "bytes" => Shape::Bytes,
            "string" => Shape::String,
            _ => {
                let known = self.names.get(&full_name(name, namespace)).or_else(|| self.names.get(name));
                return known.copied().ok_or_else(|| format!("type {name} is not defined"));
            }
        };
        self.add(shape, logical)
    }

    fn object(&mut self, json: &Value, namespace: &str) -> Result<usize, String> {
        let kind = match &json["type"] {
            Value::String(kind) => kind.as_str(),
            // {"type": {...}} is allowed, and means what is inside.
            inner @ (Value::Object(_) | Value::Array(_)) => return self.any(inner, namespace),
            _ => return Err("a type without \"type\"".to_owned()),
        };
        let logical = logical(json)?;
        match kind {
            "array" => {
                let items = self.any(&json["items"], namespace)?;
                self.add(Shape::Array(items), logical)
            }
            "map" => {
                let values = self.any(&json["values"], namespace)?;
                self.add(Shape::Map(values), logical)
            }
            "enum" => {
                let symbols = json["symbols"].as_array().ok_or("an enum without symbols")?;
                let symbols = symbols.iter().filter_map(Value::as_str).map(str::to_owned).collect();
                self.define(json, namespace, Shape::Enum(symbols), logical).map(|(id, _)| id)
            }
            "fixed" => {
                let size = json["size"].as_u64().and_then(|size| usize::try_from(size).ok());
                self.define(json, namespace, Shape::Fixed(size.ok_or("a fixed without size")?), logical)
                    .map(|(id, _)| id)
            }
            "record" | "error" => {
                // The name is known inside the record: that is how a schema is recursive.
                let (id, inside) = self.define(json, namespace, Shape::Record(Vec::new()), logical)?;
                let mut fields = Vec::new();
                for field in json["fields"].as_array().ok_or("a record without fields")? {
                    let name = field["name"].as_str().ok_or("a field without name")?;
                    let described =
                        self.any(&field["type"], &inside).map_err(|reason| format!("field {name}: {reason}"))?;
                    fields.push((name.to_owned(), described));
                }
                self.types[id].shape = Shape::Record(fields);
                Ok(id)
            }
            name => self.named(name, namespace, logical),
        }
    }

    /// Adds a type that has a name; its index, and the namespace for what is inside it.
    fn define(
        &mut self,
        json: &Value,
        namespace: &str,
        shape: Shape,
        logical: Logical,
    ) -> Result<(usize, String), String> {
        let name = json["name"].as_str().ok_or("a named type without name")?;
        let name = full_name(name, json["namespace"].as_str().unwrap_or(namespace));
        let inside = name.rsplit_once('.').map_or("", |(inside, _)| inside).to_owned();
        let id = self.add(shape, logical)?;
        if self.names.insert(name.clone(), id).is_some() {
            return Err(format!("type {name} is defined twice"));
        }
        Ok((id, inside))
    }
}

fn full_name(name: &str, namespace: &str) -> String {
    if name.contains('.') || namespace.is_empty() { name.to_owned() } else { format!("{namespace}.{name}") }
}

/// An unknown logical type is to be ignored, says the specification.
fn logical(json: &Value) -> Result<Logical, String> {
    let kind = json["type"].as_str().unwrap_or_default();
    Ok(match (json["logicalType"].as_str().unwrap_or_default(), kind) {
        ("date", "int") => Logical::Date,
        ("timestamp-millis" | "local-timestamp-millis", "long") => Logical::Timestamp(TimeUnit::Millisecond),
        ("timestamp-micros" | "local-timestamp-micros", "long") => Logical::Timestamp(TimeUnit::Microsecond),
        ("timestamp-nanos" | "local-timestamp-nanos", "long") => Logical::Timestamp(TimeUnit::Nanosecond),
        ("decimal", "bytes" | "fixed") => {
            let scale = json["scale"].as_i64().unwrap_or(0);
            Logical::Decimal { scale: i8::try_from(scale).map_err(|_| format!("a decimal scale of {scale}"))? }
        }
        _ => Logical::None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn resolves_names_as_the_specification_says() {
        let text = r#"{"type":"record","name":"a.b.Node","fields":[
            {"name":"next","type":["null","Node"]},
            {"name":"kind","type":{"type":"enum","name":"Kind","symbols":["X"]}},
            {"name":"again","type":"a.b.Kind"},
            {"name":"at","type":{"type":"long","logicalType":"timestamp-millis"}}]}"#;
        let schema = AvroSchema::parse(text).unwrap();
        let Shape::Record(fields) = &schema.types[schema.root].shape else { panic!() };
        assert_eq!(fields[1].1, fields[2].1);
        let Shape::Union(branches) = &schema.types[fields[0].1].shape else { panic!() };
        assert_eq!(branches[1], schema.root);
        assert_eq!(schema.types[fields[3].1].logical, Logical::Timestamp(TimeUnit::Millisecond));
    }

    #[test]
    fn says_what_is_wrong() {
        for (text, expected) in [
            ("{", "no JSON"),
            (r#""string""#, "no record"),
            (r#"{"type":"record","name":"r","fields":[{"name":"x","type":"Nope"}]}"#, "field x: type Nope"),
            (r#"{"type":"record","name":"r"}"#, "without fields"),
            (r#"{"name":"r"}"#, "without \"type\""),
        ] {
            let reason = AvroSchema::parse(text).unwrap_err();
            assert!(reason.contains(expected), "{text}: {reason}");
        }
    }
}
