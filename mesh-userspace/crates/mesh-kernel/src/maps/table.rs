//! A hash map of the kernel.

use std::fmt;

use aya::maps::{HashMap, Map, MapData};

use super::{Bytes, Wire, into_io, map_error};
use crate::error::KernelError;

/// A hash map with typed keys and values.
pub(crate) struct Table<K: Bytes, V: Bytes> {
    name: &'static str,
    inner: HashMap<MapData, Wire<K>, Wire<V>>,
}

impl<K: Bytes, V: Bytes> Table<K, V> {
    /// Takes a loaded map; its key and value sizes are checked.
    pub(crate) fn new(name: &'static str, map: Map) -> Result<Self, KernelError> {
        let inner = HashMap::try_from(map).map_err(map_error("use", name))?;
        Ok(Self { name, inner })
    }

    /// The value of a key.
    pub(crate) fn get(&self, key: &K) -> Result<Option<V>, KernelError> {
        match self.inner.get(&Wire(*key), 0) {
            Ok(value) => Ok(Some(value.0)),
            Err(aya::maps::MapError::KeyNotFound) => Ok(None),
            Err(error) => Err(map_error("read", self.name)(error)),
        }
    }

    /// Sets the value of a key.
    pub(crate) fn set(&mut self, key: &K, value: &V) -> Result<(), KernelError> {
        self.inner
            .insert(Wire(*key), Wire(*value), 0)
            .map_err(map_error("write", self.name))
    }

    /// Removes a key; one that is not there is removed.
    pub(crate) fn remove(&mut self, key: &K) -> Result<(), KernelError> {
        match self.inner.remove(&Wire(*key)).map_err(into_io) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
            Err(source) => Err(KernelError::Bpf {
                operation: "remove from",
                object: format!("map {}", self.name),
                source,
            }),
            Ok(()) => Ok(()),
        }
    }

    /// Every entry. A map that changes meanwhile may show some twice or not at all.
    pub(crate) fn entries(&self) -> Vec<(K, V)> {
        self.inner
            .iter()
            .filter_map(Result::ok)
            .map(|(key, value)| (key.0, value.0))
            .collect()
    }

    /// Removes every entry that `unwanted` names.
    pub(crate) fn remove_where(
        &mut self,
        unwanted: impl Fn(&K, &V) -> bool,
    ) -> Result<usize, KernelError> {
        let keys: Vec<K> = self
            .entries()
            .into_iter()
            .filter(|(key, value)| unwanted(key, value))
            .map(|(key, _)| key)
            .collect();
        for key in &keys {
            self.remove(key)?;
        }
        Ok(keys.len())
    }
}

impl<K: Bytes, V: Bytes> fmt::Debug for Table<K, V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Table").field(&self.name).finish()
    }
}
