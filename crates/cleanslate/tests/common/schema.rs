//! A judge for our published JSON schemas, by the words of JSON Schema 2020-12 that they use. A
//! word that it does not know fails the test, so that no schema can ask for something that nobody
//! checks.

use std::collections::BTreeMap;

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

/// What a schema says of the places of a report: `/missing/*/reason`.
#[derive(Default)]
#[allow(dead_code, reason = "each test program uses its part")]
pub struct Places {
    /// Every key, and whether it is required.
    pub keys: BTreeMap<String, bool>,
    /// Values of those that have a list of them.
    pub enums: BTreeMap<String, Vec<Value>>,
}

#[allow(dead_code, reason = "each test program uses its part")]
impl Schema {
    /// Every place that the schema describes. Each object of it takes no other key.
    pub fn places(&self) -> Places {
        let mut places = Places::default();
        self.walk("", &self.0, &mut places);
        places
    }

    fn walk(&self, place: &str, schema: &Value, places: &mut Places) {
        if let Some(target) = schema["$ref"].as_str() {
            return self.walk(place, self.0.pointer(target.trim_start_matches('#')).unwrap(), places);
        }
        for one in schema["oneOf"].as_array().into_iter().flatten() {
            self.walk(place, one, places);
        }
        if let Some(values) = schema["enum"].as_array() {
            places.enums.entry(place.to_owned()).or_default().extend(values.iter().cloned());
        }
        if schema.get("items").is_some() {
            self.walk(&format!("{place}/*"), &schema["items"], places);
        }
        let Some(properties) = schema["properties"].as_object() else {
            assert_ne!(schema["type"], "object", "{place}: an object without keys");
            return;
        };
        assert_eq!(schema["additionalProperties"], false, "{place}: takes any key");
        let required = list(&schema["required"]);
        assert!(required.iter().all(|key| properties.contains_key(key.as_str().unwrap())), "{place}: {required:?}");
        for (key, schema) in properties {
            let place = format!("{place}/{key}");
            self.walk(&place, schema, places);
            places.keys.insert(place, required.contains(&Value::from(key.as_str())));
        }
    }

    /// The schema can say no at every place of a good value: to a key that nobody has described, to
    /// one that is not there, to a value of another type, and to one that its list does not have.
    pub fn says_no_everywhere(&self, good: &Value) {
        let places = self.places();
        let mut pointers = Vec::new();
        each(good, &mut |pointer, _, _| pointers.push(pointer.to_owned()));
        let refuses = |bad: &Value, what: &str| assert!(!self.problems(bad).is_empty(), "{what}");
        for pointer in pointers {
            let place = place_of(&pointer);
            let mut bad = good.clone();
            *bad.pointer_mut(&pointer).unwrap() = serde_json::json!([[{}]]);
            refuses(&bad, &format!("{pointer} may be anything"));
            if places.enums.contains_key(&place) {
                *bad.pointer_mut(&pointer).unwrap() = "unheard-of".into();
                refuses(&bad, &format!("{pointer} may be any word"));
            }
            let mut bad = good.clone();
            if let Some(object) = bad.pointer_mut(&pointer).unwrap().as_object_mut() {
                object.insert("unheard-of".to_owned(), Value::Null);
                refuses(&bad, &format!("{pointer} takes any key"));
            }
            let (parent, key) = pointer.rsplit_once('/').unwrap_or_default();
            let mut bad = good.clone();
            if let Some(object) = bad.pointer_mut(parent).and_then(Value::as_object_mut)
                && places.keys.get(&place) == Some(&true)
            {
                object.remove(key).unwrap();
                refuses(&bad, &format!("{pointer} is not required"));
            }
        }
    }
}

/// Looks at every value within a value: its pointer, its place and itself.
#[allow(dead_code, reason = "each test program uses its part")]
pub fn each(value: &Value, look: &mut impl FnMut(&str, &str, &Value)) {
    fn inner(pointer: &str, value: &Value, look: &mut impl FnMut(&str, &str, &Value)) {
        look(pointer, &place_of(pointer), value);
        for (key, value) in value.as_object().into_iter().flatten() {
            inner(&format!("{pointer}/{key}"), value, look);
        }
        for (index, value) in value.as_array().into_iter().flatten().enumerate() {
            inner(&format!("{pointer}/{index}"), value, look);
        }
    }
    inner("", value, look);
}

/// `/missing/3/reason` is at `/missing/*/reason`: no key is a number.
fn place_of(pointer: &str) -> String {
    let parts = pointer.split('/').map(|part| if part.parse::<u64>().is_ok() { "*" } else { part });
    parts.collect::<Vec<_>>().join("/")
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
