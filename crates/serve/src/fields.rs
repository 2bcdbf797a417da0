//! The fields of a request's object: each is read by name, and what nobody read is told.

use crate::failure::Failure;
use serde_json::{Map, Value};
use std::cell::RefCell;
use std::ops::RangeInclusive;

/// The fields of an object. Errors name a field and never repeat its value.
pub(crate) struct Fields {
    map: Map<String, Value>,
    path: String,
    read: RefCell<Vec<String>>,
}

impl Fields {
    /// The object in a body.
    pub(crate) fn parse(body: &[u8]) -> Result<Self, Failure> {
        let wrong = |error: serde_json::Error| {
            Failure::bad(format!("the body isn't JSON: line {}, column {}", error.line(), error.column()))
        };
        match serde_json::from_slice(body).map_err(wrong)? {
            Value::Object(map) => Ok(Self { map, path: String::new(), read: RefCell::default() }),
            _ => Err(Failure::bad("the body must be a JSON object")),
        }
    }

    /// The object in a field; an empty one where there is none.
    pub(crate) fn object(&self, name: &str) -> Result<Self, Failure> {
        let path = format!("{}{name}.", self.path);
        match self.get(name) {
            None => Ok(Self { map: Map::new(), path, read: RefCell::default() }),
            Some(Value::Object(map)) => Ok(Self { map: map.clone(), path, read: RefCell::default() }),
            Some(_) => Err(self.wrong(name, "it must be an object")),
        }
    }

    /// A field's value; null is none.
    pub(crate) fn get(&self, name: &str) -> Option<&Value> {
        self.read.borrow_mut().push(name.to_owned());
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

    pub(crate) fn integer(&self, name: &str) -> Result<Option<i64>, Failure> {
        let read = |value: &Value| value.as_i64().ok_or_else(|| self.wrong(name, "it must be an integer"));
        self.get(name).map(read).transpose()
    }

    /// An integer from `least` to `most`.
    pub(crate) fn count(&self, name: &str, least: usize, most: usize) -> Result<Option<usize>, Failure> {
        let Some(number) = self.integer(name)? else { return Ok(None) };
        match usize::try_from(number) {
            Ok(number) if (least..=most).contains(&number) => Ok(Some(number)),
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

    /// Names of the fields that nobody read, as a header can hold them.
    pub(crate) fn ignored(&self) -> Vec<String> {
        let read = self.read.borrow();
        let plain = |name: &&String| name.len() <= 64 && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_');
        self.map.keys().filter(|name| !read.contains(name)).filter(plain).take(20).cloned().collect()
    }
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
