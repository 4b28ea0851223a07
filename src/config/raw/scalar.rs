//! Values that may be written in more than one way.

use std::{fmt, marker::PhantomData, ops::Deref};

use serde::{
    Deserialize, Deserializer,
    de::{
        Error, MapAccess, SeqAccess, Unexpected, Visitor,
        value::{MapAccessDeserializer, SeqAccessDeserializer},
    },
};
use zeroize::Zeroizing;

use super::{List, User, UsersSource};

/// A mapping and nothing else: serde would fill a struct from a list, in the order of its fields.
pub(in crate::config) struct Mapping<T>(pub(in crate::config) T);

impl<T> Deref for Mapping<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.0
    }
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Mapping<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Fields<T>(PhantomData<T>);

        impl<'de, T: Deserialize<'de>> Visitor<'de> for Fields<T> {
            type Value = Mapping<T>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a mapping")
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Mapping<T>, A::Error> {
                T::deserialize(MapAccessDeserializer::new(map)).map(Mapping)
            }
        }

        deserializer.deserialize_map(Fields(PhantomData))
    }
}

/// A number, duration or size as it was written; a string too, since `${NAME}` yields one.
pub(in crate::config) struct Scalar(pub(in crate::config) String);

impl<'de> Deserialize<'de> for Scalar {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Written;

        impl Visitor<'_> for Written {
            type Value = Scalar;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a number, a duration or a size")
            }

            fn visit_u64<E>(self, number: u64) -> Result<Scalar, E> {
                Ok(Scalar(number.to_string()))
            }

            fn visit_i64<E>(self, number: i64) -> Result<Scalar, E> {
                Ok(Scalar(number.to_string()))
            }

            fn visit_f64<E>(self, number: f64) -> Result<Scalar, E> {
                Ok(Scalar(number.to_string()))
            }

            fn visit_str<E>(self, text: &str) -> Result<Scalar, E> {
                Ok(Scalar(text.into()))
            }
        }

        deserializer.deserialize_any(Written)
    }
}

/// `true` or `false`; the same as a string too, since `${NAME}` yields one.
#[derive(Clone, Copy)]
pub(in crate::config) struct Flag(pub(in crate::config) bool);

impl<'de> Deserialize<'de> for Flag {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Written;

        impl Visitor<'_> for Written {
            type Value = Flag;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("true or false")
            }

            fn visit_bool<E>(self, flag: bool) -> Result<Flag, E> {
                Ok(Flag(flag))
            }

            fn visit_str<E: Error>(self, text: &str) -> Result<Flag, E> {
                match text {
                    "true" => Ok(Flag(true)),
                    "false" => Ok(Flag(false)),
                    _ => Err(E::invalid_type(Unexpected::Other("a string"), &self)),
                }
            }
        }

        deserializer.deserialize_any(Written)
    }
}

/// A secret: written here, or in a file of its own.
pub(in crate::config) enum SecretText {
    /// The text itself, `${NAME}` replaced.
    Here(Zeroizing<String>),
    /// The file that holds it.
    File(Option<String>),
}

impl<'de> Deserialize<'de> for SecretText {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Default, Deserialize)]
        #[serde(default, deny_unknown_fields)]
        struct File {
            from_file: Option<String>,
        }

        struct Written;

        impl<'de> Visitor<'de> for Written {
            type Value = SecretText;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a string or { from_file: … }")
            }

            fn visit_str<E>(self, text: &str) -> Result<SecretText, E> {
                Ok(SecretText::Here(Zeroizing::new(text.into())))
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<SecretText, A::Error> {
                File::deserialize(MapAccessDeserializer::new(map)).map(|file| SecretText::File(file.from_file))
            }
        }

        deserializer.deserialize_any(Written)
    }
}

/// Users: written here, or elsewhere.
pub(in crate::config) enum Users {
    /// They stand here.
    Here(List<Mapping<User>>),
    /// Where they are.
    Elsewhere(UsersSource),
}

impl<'de> Deserialize<'de> for Users {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Written;

        impl<'de> Visitor<'de> for Written {
            type Value = Users;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a list of users, { file: … } or { http: … }")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, list: A) -> Result<Users, A::Error> {
                Vec::deserialize(SeqAccessDeserializer::new(list)).map(|list| Users::Here(Some(list)))
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Users, A::Error> {
                UsersSource::deserialize(MapAccessDeserializer::new(map)).map(Users::Elsewhere)
            }
        }

        deserializer.deserialize_any(Written)
    }
}
