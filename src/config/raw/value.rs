//! The document as plain values, each `${NAME}` replaced. Unlike serde_yaml's own, these survive a doubled key (the first
//! one stands), so that what follows it is looked at too.

use std::fmt;

use serde::{
    Deserializer,
    de::{DeserializeSeed, EnumAccess, Error, IgnoredAny, MapAccess, SeqAccess, VariantAccess, Visitor},
};
use serde_json::{Map, Value};

use crate::config::{
    env,
    error::Position,
    path::{Path, Step},
    report::Report,
};

/// Reads YAML text; a scalar that cannot be had is reported, and null. `None` when there is no reading it at all.
pub(super) fn read(text: &str, report: &mut Report) -> Option<Value> {
    let root = Node { path: &mut Vec::new(), report: &mut *report };
    match root.deserialize(serde_yaml::Deserializer::from_str(text)) {
        Ok(value) => Some(value),
        Err(error) => {
            // The two readers differ on rare texts; where this one alone finds fault, its words have to do.
            let at = error.location().map(|at| Position { line: at.line(), column: at.column() });
            report.syntax(at, &format!("not YAML: {error}"));
            None
        }
    }
}

struct Node<'a> {
    path: &'a mut Vec<Step>,
    report: &'a mut Report,
}

impl Node<'_> {
    fn below(&mut self, step: Step) -> Node<'_> {
        self.path.push(step);
        Node { path: self.path, report: self.report }
    }

    /// A key with nothing behind it is a slip, and never the wish for its default: `secret_hash:` would make a public
    /// client, `tls:` plain HTTP, `scopes:` a route that asks for none.
    fn must_be_there(&mut self, value: &Value) {
        let path = Path::from_steps(self.path.clone());
        if value.is_null() && !self.report.is_settled(&path) {
            self.report.error(&path, "nothing stands here; leave the key out to have its default");
        }
    }

    fn refuse(self, why: &str) -> Value {
        self.report.error(&Path::from_steps(self.path.clone()), why);
        Value::Null
    }
}

impl<'de> DeserializeSeed<'de> for Node<'_> {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Node<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value")
    }

    /// What an empty document is.
    fn visit_none<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, flag: bool) -> Result<Value, E> {
        Ok(flag.into())
    }

    fn visit_u64<E>(self, number: u64) -> Result<Value, E> {
        Ok(number.into())
    }

    fn visit_i64<E>(self, number: i64) -> Result<Value, E> {
        Ok(number.into())
    }

    fn visit_f64<E>(self, number: f64) -> Result<Value, E> {
        Ok(serde_json::Number::from_f64(number)
            .map_or_else(|| self.refuse("infinity and not-a-number have no meaning here"), Value::Number))
    }

    fn visit_u128<E>(self, _: u128) -> Result<Value, E> {
        Ok(self.refuse("the number is too large"))
    }

    fn visit_i128<E>(self, _: i128) -> Result<Value, E> {
        Ok(self.refuse("the number is too large"))
    }

    fn visit_str<E>(self, text: &str) -> Result<Value, E> {
        if !text.contains("${") {
            return Ok(text.into());
        }
        if env::is_all_variables(text) {
            self.report.is_from_environment(Path::from_steps(self.path.clone()));
        }
        Ok(match env::expand(text) {
            Ok(text) => text.into(),
            Err(why) => self.refuse(&why),
        })
    }

    fn visit_seq<A: SeqAccess<'de>>(mut self, mut items: A) -> Result<Value, A::Error> {
        let mut list = Vec::new();
        while let Some(item) = {
            let item = items.next_element_seed(self.below(Step::Index(list.len())))?;
            self.path.pop();
            item
        } {
            list.push(item);
        }
        Ok(Value::Array(list))
    }

    fn visit_map<A: MapAccess<'de>>(mut self, mut entries: A) -> Result<Value, A::Error> {
        let mut map = Map::new();
        while let Some(key) = entries.next_key::<String>()? {
            if map.contains_key(&key) {
                entries.next_value::<IgnoredAny>()?;
                continue;
            }
            let value = entries.next_value_seed(self.below(Step::Key(key.as_str().into())))?;
            self.must_be_there(&value);
            self.path.pop();
            map.insert(key, value);
        }
        if let Some(merged) = map.remove("<<") {
            merge(&mut map, merged);
        }
        Ok(Value::Object(map))
    }

    /// A tag (`!name`): nothing here has one.
    fn visit_enum<A: EnumAccess<'de>>(self, tagged: A) -> Result<Value, A::Error> {
        let (_, value): (IgnoredAny, _) = tagged.variant()?;
        value.newtype_variant::<IgnoredAny>().map_err(|_| A::Error::custom("a tag names no value"))?;
        Ok(self.refuse("tags (`!name`) have no meaning here"))
    }
}

/// `<<: *defaults`, or a list of those: what the mapping has itself goes before what it merges, earlier before later.
fn merge(map: &mut Map<String, Value>, merged: Value) {
    match merged {
        Value::Object(defaults) => {
            for (key, value) in defaults {
                map.entry(key).or_insert(value);
            }
        }
        Value::Array(list) => list.into_iter().for_each(|defaults| merge(map, defaults)),
        // Put back, so that it is reported as the unknown key it then is.
        other => _ = map.insert("<<".into(), other),
    }
}
