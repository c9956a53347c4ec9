//! A judge for our published JSON schemas, by the words of JSON Schema 2020-12 that they use. A
//! word that it does not know fails the test, so that no schema can ask for something that nobody
//! checks.

use serde_json::Value;

/// A schema file of docs/schemas.
pub struct Schema(Value);

/// Words that say nothing about a value.
const NOTES: [&str; 5] = ["$schema", "$defs", "title", "description", "examples"];

impl Schema {
    pub fn published(name: &str) -> Self {
        let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/schemas").join(name);
        let text = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        let schema: Value = serde_json::from_str(&text).unwrap();
        assert_eq!(schema["$schema"], "https://json-schema.org/draft/2020-12/schema");
        Self(schema)
    }

    /// What is wrong with a value, each with its place.
    pub fn problems(&self, value: &Value) -> Vec<String> {
        let mut problems = Vec::new();
        self.look("", &self.0, value, &mut problems);
        problems
    }

    fn look(&self, place: &str, schema: &Value, value: &Value, problems: &mut Vec<String>) {
        let words = schema.as_object().unwrap_or_else(|| panic!("{place}: a schema is an object"));
        for (word, wanted) in words {
            let good = match word.as_str() {
                word if NOTES.contains(&word) => true,
                "$ref" => {
                    let target = wanted.as_str().and_then(|text| text.strip_prefix('#'));
                    let target = target.and_then(|pointer| self.0.pointer(pointer));
                    self.look(place, target.unwrap_or_else(|| panic!("{wanted} is nowhere")), value, problems);
                    true
                }
                "type" => match wanted {
                    Value::Array(names) => names.iter().any(|name| is(name, value)),
                    name => is(name, value),
                },
                "const" => value == wanted,
                "enum" => list(wanted).contains(value),
                "minimum" => value.as_f64().is_none_or(|number| number >= wanted.as_f64().unwrap()),
                "minItems" => value.as_array().is_none_or(|items| items.len() as u64 >= wanted.as_u64().unwrap()),
                "maxItems" => value.as_array().is_none_or(|items| items.len() as u64 <= wanted.as_u64().unwrap()),
                "required" => list(wanted).iter().all(|key| value.get(key.as_str().unwrap()).is_some()),
                "properties" => {
                    for (key, schema) in wanted.as_object().unwrap() {
                        if let Some(value) = value.get(key) {
                            self.look(&format!("{place}/{key}"), schema, value, problems);
                        }
                    }
                    true
                }
                "additionalProperties" => {
                    assert_eq!(wanted, false, "{place}: only `false` is known");
                    let known = words.get("properties").and_then(Value::as_object);
                    let mut keys = value.as_object().into_iter().flat_map(|object| object.keys());
                    keys.all(|key| known.is_some_and(|known| known.contains_key(key)))
                }
                "items" => {
                    for (index, value) in value.as_array().into_iter().flatten().enumerate() {
                        self.look(&format!("{place}/{index}"), wanted, value, problems);
                    }
                    true
                }
                "oneOf" => {
                    let fits = |schema: &&Value| {
                        let mut inner = Vec::new();
                        self.look(place, schema, value, &mut inner);
                        inner.is_empty()
                    };
                    list(wanted).iter().filter(fits).count() == 1
                }
                other => panic!("{place}: `{other}` is not known to this judge"),
            };
            if !good {
                problems.push(format!("{place}: {word}"));
            }
        }
    }
}

fn list(value: &Value) -> &[Value] {
    value.as_array().unwrap_or_else(|| panic!("{value} is no list"))
}

fn is(name: &Value, value: &Value) -> bool {
    match name.as_str().unwrap() {
        "null" => value.is_null(),
        "boolean" => value.is_boolean(),
        "integer" => value.is_u64() || value.is_i64(),
        "number" => value.is_number(),
        "string" => value.is_string(),
        "array" => value.is_array(),
        "object" => value.is_object(),
        other => panic!("`{other}` is no type"),
    }
}
