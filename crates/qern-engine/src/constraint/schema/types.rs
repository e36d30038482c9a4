//! Sets of JSON types. Integers and other numbers are told apart.

use serde_json::Value;

/// A set of the types that a value may have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Types(u8);

impl Types {
    pub(super) const NONE: Self = Self(0);
    pub(super) const NULL: Self = Self(1);
    pub(super) const BOOLEAN: Self = Self(2);
    pub(super) const INTEGER: Self = Self(4);
    /// Numbers that are no integers.
    pub(super) const FRACTION: Self = Self(8);
    pub(super) const NUMBER: Self = Self(12);
    pub(super) const STRING: Self = Self(16);
    pub(super) const ARRAY: Self = Self(32);
    pub(super) const OBJECT: Self = Self(64);
    pub(super) const ALL: Self = Self(127);

    pub(super) fn named(name: &str) -> Option<Self> {
        Some(match name {
            "null" => Self::NULL,
            "boolean" => Self::BOOLEAN,
            "integer" => Self::INTEGER,
            "number" => Self::NUMBER,
            "string" => Self::STRING,
            "array" => Self::ARRAY,
            "object" => Self::OBJECT,
            _ => return None,
        })
    }

    /// Of a `type` keyword. Names that do not exist allow nothing.
    pub(super) fn of_keyword(keyword: Option<&Value>) -> Self {
        match keyword {
            None => Self::ALL,
            Some(Value::String(name)) => Self::named(name).unwrap_or(Self::NONE),
            Some(Value::Array(names)) => {
                names.iter().filter_map(Value::as_str).filter_map(Self::named).fold(Self::NONE, Self::or)
            }
            Some(_) => Self::NONE,
        }
    }

    pub(super) fn of_value(value: &Value) -> Self {
        match value {
            Value::Null => Self::NULL,
            Value::Bool(_) => Self::BOOLEAN,
            Value::Number(number) if number.as_f64().is_some_and(|number| number.fract() == 0.0) => Self::INTEGER,
            Value::Number(_) => Self::FRACTION,
            Value::String(_) => Self::STRING,
            Value::Array(_) => Self::ARRAY,
            Value::Object(_) => Self::OBJECT,
        }
    }

    pub(super) fn or(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    pub(super) fn and(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }

    pub(super) fn without(self, other: Self) -> Self {
        Self(self.0 & !other.0)
    }

    pub(super) fn is_empty(self) -> bool {
        self.0 == 0
    }

    pub(super) fn has(self, other: Self) -> bool {
        self.0 & other.0 != 0
    }

    /// As a `type` keyword; `None` if it holds fractions but no integers, which no name says.
    pub(super) fn keyword(self) -> Option<Value> {
        if self.and(Self::NUMBER) == Self::FRACTION {
            return None;
        }
        let mut names = Vec::new();
        for name in ["null", "boolean", "string", "array", "object"] {
            if Self::named(name).is_some_and(|types| self.has(types)) {
                names.push(Value::from(name));
            }
        }
        if self.has(Self::FRACTION) {
            names.push("number".into());
        } else if self.has(Self::INTEGER) {
            names.push("integer".into());
        }
        Some(if names.len() == 1 { names.swap_remove(0) } else { Value::Array(names) })
    }
}
