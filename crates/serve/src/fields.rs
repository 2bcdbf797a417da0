//! The fields of a request's object: each is read by name, and what nobody read is told.

use crate::failure::Failure;
use serde_json::{Map, Value};
use std::ops::RangeInclusive;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Most fields that are told to be ignored, and the most bytes of one's path.
const TOLD: usize = 20;
const LONGEST: usize = 64;
/// Most fields that are looked at for that.
const LOOKED_AT: usize = 1000;

/// The fields of an object, and of the objects in it that are read as such. Errors name a field and never repeat its
/// value.
pub(crate) struct Fields {
    map: Map<String, Value>,
    path: String,
    seen: Arc<Mutex<Seen>>,
}

/// The fields of all objects by their paths: those that there are, and those that were read.
#[derive(Default)]
struct Seen {
    there: Vec<String>,
    read: Vec<String>,
}

impl Fields {
    /// The object in a body.
    pub(crate) fn parse(body: &[u8]) -> Result<Self, Failure> {
        let wrong = |error: serde_json::Error| {
            Failure::bad(format!("the body isn't JSON: line {}, column {}", error.line(), error.column()))
        };
        match serde_json::from_slice(body).map_err(wrong)? {
            Value::Object(map) => Ok(Self::new(map, String::new(), Arc::default())),
            _ => Err(Failure::bad("the body must be a JSON object")),
        }
    }

    fn new(map: Map<String, Value>, path: String, seen: Arc<Mutex<Seen>>) -> Self {
        lock(&seen).there.extend(map.keys().map(|name| format!("{path}{name}")));
        Self { map, path, seen }
    }

    /// The object in a field; an empty one where there is none.
    pub(crate) fn object(&self, name: &str) -> Result<Self, Failure> {
        let map = match self.get(name) {
            None => Map::new(),
            Some(Value::Object(map)) => map.clone(),
            Some(_) => return Err(self.wrong(name, "it must be an object")),
        };
        Ok(Self::new(map, format!("{}{name}.", self.path), Arc::clone(&self.seen)))
    }

    /// A field's value; null is none.
    pub(crate) fn get(&self, name: &str) -> Option<&Value> {
        lock(&self.seen).read.push(format!("{}{name}", self.path));
        self.map.get(name).filter(|value| !value.is_null())
    }

    pub(crate) fn wrong(&self, name: &str, problem: impl std::fmt::Display) -> Failure {
        Failure::field(&format!("{}{name}", self.path), problem)
    }

    /// A number in a range.
    pub(crate) fn number(&self, name: &str, range: &RangeInclusive<f32>) -> Result<Option<f32>, Failure> {
        let problem = || self.wrong(name, format!("it must be a number from {} to {}", range.start(), range.end()));
        self.get(name).map(|value| within(value, range).ok_or_else(problem)).transpose()
    }

    /// An integer, which may be written as 2.0.
    pub(crate) fn integer(&self, name: &str) -> Result<Option<i64>, Failure> {
        // Above 2^53 such a number may be a neighbour of what was meant.
        let whole = |number: &f64| number.fract() == 0.0 && number.abs() < 9e15;
        let read = |value: &Value| {
            let number = value.as_i64().or_else(|| value.as_f64().filter(whole).map(|number| number as i64));
            number.ok_or_else(|| self.wrong(name, "it must be an integer"))
        };
        self.get(name).map(read).transpose()
    }

    /// An integer from `least` to `most`.
    pub(crate) fn count(&self, name: &str, least: usize, most: usize) -> Result<Option<usize>, Failure> {
        let Some(number) = self.integer(name)? else { return Ok(None) };
        match usize::try_from(number) {
            Ok(number) if (least..=most).contains(&number) => Ok(Some(number)),
            _ if most == usize::MAX => Err(self.wrong(name, format!("it must be at least {least}"))),
            _ => Err(self.wrong(name, format!("it must be from {least} to {most}"))),
        }
    }

    pub(crate) fn flag(&self, name: &str) -> Result<Option<bool>, Failure> {
        let read = |value: &Value| value.as_bool().ok_or_else(|| self.wrong(name, "it must be true or false"));
        self.get(name).map(read).transpose()
    }

    pub(crate) fn text(&self, name: &str) -> Result<Option<&str>, Failure> {
        let read = |value| Value::as_str(value).ok_or_else(|| self.wrong(name, "it must be a string"));
        self.get(name).map(read).transpose()
    }

    /// A string or a list of at most `most`.
    pub(crate) fn texts(&self, name: &str, most: usize) -> Result<Vec<String>, Failure> {
        let problem = || self.wrong(name, format!("it must be a string, or a list of {most} strings at most"));
        match self.get(name) {
            None => Ok(Vec::new()),
            Some(Value::String(text)) => Ok(vec![text.clone()]),
            Some(Value::Array(list)) if list.len() <= most => {
                list.iter().map(|value| value.as_str().map(str::to_owned).ok_or_else(problem)).collect()
            }
            Some(_) => Err(problem()),
        }
    }

    /// Refuses a field that says something, as ignoring it would give an answer that wasn't asked for.
    pub(crate) fn refuse(&self, name: &str, why: &str) -> Result<(), Failure> {
        let says_nothing = match self.get(name) {
            None => true,
            Some(Value::Bool(flag)) => !flag,
            Some(Value::Number(number)) => number.as_f64() == Some(0.0),
            Some(Value::String(text)) => text.is_empty() || text == "none" || text == "auto",
            Some(Value::Array(list)) => list.is_empty(),
            Some(Value::Object(map)) => map.is_empty(),
            Some(Value::Null) => true,
        };
        if says_nothing { Ok(()) } else { Err(self.wrong(name, why).code("unsupported_parameter")) }
    }

    /// Paths of the fields that nobody read, as a header can hold them: what is no plain name in percents.
    pub(crate) fn ignored(&self) -> Vec<String> {
        let seen = lock(&self.seen);
        let mut told = Vec::new();
        for path in seen.there.iter().take(LOOKED_AT) {
            let name = plain(path);
            if !seen.read.contains(path) && !told.contains(&name) {
                told.push(name);
            }
            if told.len() == TOLD {
                break;
            }
        }
        told
    }
}

/// A path in letters that a header can hold, and no more of them than it should.
fn plain(path: &str) -> String {
    let mut name = String::new();
    for byte in path.bytes().take(LONGEST) {
        match byte.is_ascii_alphanumeric() || b"_-.".contains(&byte) {
            true => name.push(char::from(byte)),
            false => name.push_str(&format!("%{byte:02X}")),
        }
    }
    name
}

fn lock(seen: &Mutex<Seen>) -> MutexGuard<'_, Seen> {
    seen.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A number in a range. It is compared as it was written: rounded to 32 bits it could come to lie within.
pub(crate) fn within(value: &Value, range: &RangeInclusive<f32>) -> Option<f32> {
    // The same decimals in 64 bits: 0.01 isn't the same number there.
    let decimal = |bound: &f32| bound.to_string().parse::<f64>().ok();
    let number = value.as_f64()?;
    (decimal(range.start())? <= number && number <= decimal(range.end())?).then_some(number as f32)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn fields(value: &Value) -> Fields {
        Fields::parse(value.to_string().as_bytes()).unwrap()
    }

    #[test]
    fn what_nobody_read_is_told_wherever_it_stands() {
        let value = json!({"a": 1, "x-y": 2, "größe": 3, "options": {"num_ctx": 4, "seed": 5, "deep": {"z": 6}}});
        let all = fields(&value);
        all.get("a");
        assert_eq!(all.ignored(), ["x-y", "gr%C3%B6%C3%9Fe", "options"]);
        let options = all.object("options").unwrap();
        assert_eq!(options.integer("seed").unwrap(), Some(5));
        assert_eq!(all.ignored(), ["x-y", "gr%C3%B6%C3%9Fe", "options.num_ctx", "options.deep"]);
        let many: Map<String, Value> = (0..100).map(|at| (format!("f{at}"), json!(0))).collect();
        assert_eq!(fields(&Value::Object(many)).ignored().len(), TOLD);
    }

    #[test]
    fn integers_may_be_written_as_floats() {
        let all = fields(&json!({"a": 2.0, "b": 2.5, "c": 1e18, "d": "2", "e": -1}));
        assert_eq!((all.integer("a").unwrap(), all.integer("e").unwrap()), (Some(2), Some(-1)));
        for name in ["b", "c", "d"] {
            assert!(all.integer(name).is_err(), "{name}");
        }
    }

    #[test]
    fn numbers_are_compared_as_they_are_written() {
        let range = 0.01..=100.0;
        for (value, wanted) in [(json!(0.01), Some(0.01)), (json!(100), Some(100.0)), (json!(7.5), Some(7.5))] {
            assert_eq!(within(&value, &range), wanted);
        }
        for value in [json!(0.009_999_999_999), json!(100.000_001), json!(1e300), json!("1"), json!(true), json!([1])] {
            assert_eq!(within(&value, &range), None, "{value}");
        }
    }
}
