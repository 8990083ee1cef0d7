//! Enumerations that keep a value they do not know, so that it becomes a status condition and not an unreadable object.

/// Declares an enumeration of strings with one more variant, `Unknown(String)`.
///
/// The Gateway API asks implementations to answer an unknown value with the condition `UnsupportedValue`; for that the
/// object has to be read. A macro, because some fifteen types need the same five implementations.
macro_rules! open_enum {
    (
        $(#[$meta:meta])*
        pub enum $name:ident {
            $($(#[$variant_meta:meta])* $variant:ident = $text:literal,)+
        }
    ) => {
        $(#[$meta])*
        #[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum $name {
            $($(#[$variant_meta])* $variant,)+
            /// A value that this version does not know, as it was written.
            Unknown(String),
        }

        impl $name {
            /// The values that this version knows, as they are written.
            pub const KNOWN: &'static [&'static str] = &[$($text),+];

            /// The value as it is written.
            #[must_use]
            pub fn as_str(&self) -> &str {
                match self {
                    $(Self::$variant => $text,)+
                    Self::Unknown(text) => text,
                }
            }
        }

        impl From<&str> for $name {
            fn from(text: &str) -> Self {
                match text {
                    $($text => Self::$variant,)+
                    _ => Self::Unknown(text.to_owned()),
                }
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(self.as_str())
            }
        }

        impl serde::Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_str(self.as_str())
            }
        }

        impl<'de> serde::Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                // By `deserialize_enum`, so that the reader of manifests learns the known values and can warn.
                let text = crate::open_enum::text(deserializer, stringify!($name), Self::KNOWN)?;
                Ok(Self::from(text.as_str()))
            }
        }

        impl schemars::JsonSchema for $name {
            fn inline_schema() -> bool {
                true
            }

            fn schema_name() -> std::borrow::Cow<'static, str> {
                stringify!($name).into()
            }

            fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
                schemars::json_schema!({ "type": "string" })
            }
        }
    };
}

pub(crate) use open_enum;
use serde::de::{self, EnumAccess, VariantAccess};

/// Reads the text of a value that is announced as an enumeration of `known` values, whatever it is.
pub(crate) fn text<'de, D: de::Deserializer<'de>>(
    deserializer: D,
    name: &'static str,
    known: &'static [&'static str],
) -> Result<String, D::Error> {
    struct AnyText;

    impl<'de> de::Visitor<'de> for AnyText {
        type Value = String;

        fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.write_str("a string")
        }

        fn visit_enum<A: EnumAccess<'de>>(self, access: A) -> Result<String, A::Error> {
            let (text, rest) = access.variant::<String>()?;
            rest.unit_variant()?;
            Ok(text)
        }
    }

    deserializer.deserialize_enum(name, known, AnyText)
}

#[cfg(test)]
mod tests {
    // The macro declares public types, and a test has no public.
    #![expect(unreachable_pub, reason = "the macro is for public types")]

    open_enum! {
        /// An example.
        pub enum Colour {
            /// Like the sea.
            Blue = "Blue",
        }
    }

    #[test]
    fn an_unknown_value_is_kept_as_written() {
        let read: Vec<Colour> = serde_json::from_str(r#"["Blue","Bleu"]"#).unwrap();
        assert_eq!(read, [Colour::Blue, Colour::Unknown("Bleu".to_owned())]);
        assert_eq!(serde_json::to_string(&read).unwrap(), r#"["Blue","Bleu"]"#);
    }

    #[test]
    fn a_value_that_is_no_string_is_refused() {
        assert!(serde_json::from_str::<Colour>("7").is_err());
        assert!(serde_json::from_str::<Colour>(r#"{"Blue":1}"#).is_err());
    }
}
