//! What serde asks of a reader of lists, structs, maps and enums. Here is where a mistake is noted and passed over: in a
//! value with its place, and in a field that is not there.

use serde::de::value::StrDeserializer;
use serde::de::{
    DeserializeSeed, EnumAccess, IntoDeserializer, MapAccess, SeqAccess, VariantAccess, Visitor,
};

use crate::mistake::quoted;
use crate::tree::Node;

use super::{Failure, Reader, join};

/// The items of a list.
pub(super) struct Items<'n> {
    pub(super) reader: Reader<'n>,
    pub(super) items: std::iter::Enumerate<std::slice::Iter<'n, Node>>,
}

impl<'n> SeqAccess<'n> for Items<'n> {
    type Error = Failure;

    fn next_element_seed<T: DeserializeSeed<'n>>(
        &mut self,
        seed: T,
    ) -> Result<Option<T::Value>, Failure> {
        let Some((index, item)) = self.items.next() else {
            return Ok(None);
        };
        let path = format!("{}[{index}]", self.reader.path);
        seed.deserialize(self.reader.child(item, path)).map(Some)
    }
}

/// The parts of an [`crate::located::At`]: location, path, value.
pub(super) struct Placed<'n> {
    pub(super) reader: Option<Reader<'n>>,
    pub(super) step: u8,
}

impl<'n> SeqAccess<'n> for Placed<'n> {
    type Error = Failure;

    fn next_element_seed<T: DeserializeSeed<'n>>(
        &mut self,
        seed: T,
    ) -> Result<Option<T::Value>, Failure> {
        let Some(reader) = &self.reader else {
            return Ok(None);
        };
        self.step += 1;
        let number = |number: u32| IntoDeserializer::<Failure>::into_deserializer(number);
        match self.step {
            1 => seed.deserialize(number(reader.at.line)).map(Some),
            2 => seed.deserialize(number(reader.at.column)).map(Some),
            3 => seed.deserialize(number(reader.at.length)).map(Some),
            4 => seed
                .deserialize(StrDeserializer::<Failure>::new(&reader.path))
                .map(Some),
            _ => {
                let (at, path, mistakes) = (reader.at, reader.path.clone(), reader.mistakes);
                let Some(mut reader) = self.reader.take() else {
                    return Ok(None);
                };
                reader.required = true;
                match seed.deserialize(reader) {
                    Ok(value) => Ok(Some(value)),
                    Err(failure) => {
                        mistakes.borrow_mut().push(failure.into_mistake(at, &path));
                        Ok(None)
                    }
                }
            }
        }
    }
}

/// The entries of a map whose keys the author chose.
pub(super) struct Keyed<'n> {
    pub(super) reader: Reader<'n>,
    pub(super) entries: std::vec::IntoIter<(&'n str, &'n Node, &'n Node)>,
    pub(super) value: Option<(String, &'n Node)>,
}

impl<'n> MapAccess<'n> for Keyed<'n> {
    type Error = Failure;

    fn next_key_seed<K: DeserializeSeed<'n>>(
        &mut self,
        seed: K,
    ) -> Result<Option<K::Value>, Failure> {
        let Some((text, key, value)) = self.entries.next() else {
            return Ok(None);
        };
        let path = join(&self.reader.path, text);
        self.value = Some((path.clone(), value));
        seed.deserialize(self.reader.child(key, path)).map(Some)
    }

    fn next_value_seed<V: DeserializeSeed<'n>>(&mut self, seed: V) -> Result<V::Value, Failure> {
        match self.value.take() {
            Some((path, node)) => seed.deserialize(self.reader.child(node, path)),
            None => Err(Failure::Words("a value without its key".to_owned())),
        }
    }
}

/// The fields of a struct, each exactly once, present or not.
pub(super) struct Fields<'n> {
    pub(super) reader: Reader<'n>,
    pub(super) fields: std::iter::Zip<
        std::slice::Iter<'static, &'static str>,
        std::vec::IntoIter<Option<&'n Node>>,
    >,
    pub(super) value: Option<(String, Option<&'n Node>)>,
}

impl<'n> MapAccess<'n> for Fields<'n> {
    type Error = Failure;

    fn next_key_seed<K: DeserializeSeed<'n>>(
        &mut self,
        seed: K,
    ) -> Result<Option<K::Value>, Failure> {
        let Some((field, node)) = self.fields.next() else {
            return Ok(None);
        };
        self.value = Some((join(&self.reader.path, field), node));
        seed.deserialize(StrDeserializer::<Failure>::new(field))
            .map(Some)
    }

    fn next_value_seed<V: DeserializeSeed<'n>>(&mut self, seed: V) -> Result<V::Value, Failure> {
        let Some((path, node)) = self.value.take() else {
            return Err(Failure::Words("a value without its key".to_owned()));
        };
        seed.deserialize(Reader {
            node,
            at: node.map_or(self.reader.at, |node| node.at),
            path,
            required: false,
            mistakes: self.reader.mistakes,
        })
    }
}

/// A unit variant of an enum, by its name.
pub(super) struct Variant<'n>(pub(super) &'n str);

impl<'n> EnumAccess<'n> for Variant<'n> {
    type Error = Failure;
    type Variant = Self;

    fn variant_seed<V: DeserializeSeed<'n>>(
        self,
        seed: V,
    ) -> Result<(V::Value, Self::Variant), Failure> {
        let value = seed.deserialize(StrDeserializer::<Failure>::new(self.0))?;
        Ok((value, self))
    }
}

impl<'n> VariantAccess<'n> for Variant<'n> {
    type Error = Failure;

    fn unit_variant(self) -> Result<(), Failure> {
        Ok(())
    }

    fn newtype_variant_seed<T: DeserializeSeed<'n>>(self, _seed: T) -> Result<T::Value, Failure> {
        Err(Failure::Words(format!("{} stands alone", quoted(self.0))))
    }

    fn tuple_variant<V: Visitor<'n>>(self, _len: usize, _visitor: V) -> Result<V::Value, Failure> {
        Err(Failure::Words(format!("{} stands alone", quoted(self.0))))
    }

    fn struct_variant<V: Visitor<'n>>(
        self,
        _fields: &'static [&'static str],
        _visitor: V,
    ) -> Result<V::Value, Failure> {
        Err(Failure::Words(format!("{} stands alone", quoted(self.0))))
    }
}
