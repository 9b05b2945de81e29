//! Our entry in a network configuration: put in, found, taken out, with every other byte as it was.

use std::ops::Range;

use crate::cni::PLUGIN;
use crate::cni::json::Text;

/// Why a network configuration is not one that a runtime would use.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NotUsable {
    #[error("it is no JSON")]
    Json(#[from] serde_json::Error),
    #[error("it has no list of plugins")]
    NoPlugins,
    #[error("it names no plugin type")]
    NoType,
}

/// A list of plugins, as a runtime reads it.
#[derive(Debug)]
pub(crate) struct Conflist<'a> {
    text: Text<'a>,
    plugins: Vec<Range<usize>>,
}

impl<'a> Conflist<'a> {
    /// Reads one, which must have at least one plugin.
    pub(crate) fn read(text: &'a str) -> Result<Self, NotUsable> {
        let text = Text::check(text)?;
        let list = text.member(&text.whole(), "plugins");
        let plugins = list.map(|list| text.elements(&list)).unwrap_or_default();
        match plugins.is_empty() {
            true => Err(NotUsable::NoPlugins),
            false => Ok(Self { text, plugins }),
        }
    }

    /// Our entry, as it is.
    pub(crate) fn entry(&self) -> Option<&'a str> {
        let ours = self.plugins.iter().find(|plugin| self.is_ours(plugin))?;
        Some(&self.text.get()[ours.clone()])
    }

    /// The text with our entry at the end, spaced as the one before.
    pub(crate) fn with(&self, entry: &str) -> String {
        let text = self.text.get();
        let (Some(last), before) = (self.plugins.last(), self.plugins.len().checked_sub(2)) else {
            return text.to_owned();
        };
        // From the bracket or the comma before it: only spaces can be there.
        let begin = before
            .and_then(|index| self.plugins.get(index))
            .map_or_else(
                || text[..last.start].rfind('['),
                |before| text[before.end..].find(',').map(|comma| before.end + comma),
            );
        let space = begin.map_or("", |begin| &text[begin + 1..last.start]);
        let (head, tail) = text.split_at(last.end);
        format!("{head},{space}{entry}{tail}")
    }

    /// The text without our entry; of one that has only ours, the text itself.
    pub(crate) fn without(&self) -> String {
        let mut text = self.text.get().to_owned();
        // From the end, so that what lies before stays where it is.
        for index in (0..self.plugins.len()).rev() {
            let plugin = &self.plugins[index];
            if !self.is_ours(plugin) {
                continue;
            }
            let neighbours = (
                index
                    .checked_sub(1)
                    .and_then(|index| self.plugins.get(index)),
                self.plugins.get(index + 1),
            );
            match neighbours {
                (Some(before), _) => text.replace_range(before.end..plugin.end, ""),
                (None, Some(after)) => text.replace_range(plugin.start..after.start, ""),
                (None, None) => {}
            }
        }
        text
    }

    fn is_ours(&self, plugin: &Range<usize>) -> bool {
        let kind = self.text.member(plugin, "type");
        kind.and_then(|kind| self.text.text(&kind)).as_deref() == Some(PLUGIN)
    }
}

/// A single plugin's configuration made a list with it and our entry (CNI specification, "network configuration lists").
pub(crate) fn wrap(single: &str, entry: &str) -> Result<String, NotUsable> {
    let text = Text::check(single)?;
    let whole = text.whole();
    if text.member(&whole, "type").is_none() {
        return Err(NotUsable::NoType);
    }
    let shared: String = ["cniVersion", "name"]
        .iter()
        .filter_map(|name| {
            let value = text.member(&whole, name)?;
            Some(format!("\"{name}\": {}, ", &single[value]))
        })
        .collect();
    let plugin = &single[whole];
    Ok(format!("{{{shared}\"plugins\": [{plugin}, {entry}]}}\n"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const ENTRY: &str = r#"{"type":"warren-cni","runDir":"/run/warren"}"#;

    fn check(before: &str, after: &str) {
        let list = Conflist::read(before).expect("usable");
        assert_eq!(list.entry(), None);
        let with = list.with(ENTRY);
        assert_eq!(with, after);
        let list = Conflist::read(&with).expect("still usable");
        assert_eq!(list.entry(), Some(ENTRY));
        assert_eq!(list.without(), before, "back, byte for byte");
    }

    #[test]
    fn an_entry_is_put_in_and_taken_out_and_no_other_byte_changes() {
        check(
            r#"{"name":"n","plugins":[{"type":"ptp"}]}"#,
            r#"{"name":"n","plugins":[{"type":"ptp"},{"type":"warren-cni","runDir":"/run/warren"}]}"#,
        );
        check(
            "{\n  \"plugins\": [\n    {\"type\": \"a,]\"} ,\n    {\"type\": \"b\"}\n  ],\n  \"x\": 1e3\n}\n",
            "{\n  \"plugins\": [\n    {\"type\": \"a,]\"} ,\n    {\"type\": \"b\"},\n    \
             {\"type\":\"warren-cni\",\"runDir\":\"/run/warren\"}\n  ],\n  \"x\": 1e3\n}\n",
        );
        check(
            "{\"plugins\": [ {} ] }",
            &format!("{{\"plugins\": [ {{}}, {ENTRY} ] }}"),
        );
    }

    #[test]
    fn an_entry_is_found_wherever_another_writer_moved_it() {
        let first = format!(r#"{{"plugins":[{ENTRY}, {{"type":"a"}}]}}"#);
        let list = Conflist::read(&first).expect("usable");
        assert_eq!(list.entry(), Some(ENTRY));
        assert_eq!(list.without(), r#"{"plugins":[{"type":"a"}]}"#);
        let twice = format!(r#"{{"plugins":[{{"type":"a"}},{ENTRY},{{"type":"b"}},{ENTRY}]}}"#);
        let list = Conflist::read(&twice).expect("usable");
        assert_eq!(list.without(), r#"{"plugins":[{"type":"a"},{"type":"b"}]}"#);
    }

    #[test]
    fn what_no_runtime_would_use_is_not_used() {
        for text in [
            "",
            "{",
            "[]",
            "{}",
            r#"{"plugins":[]}"#,
            r#"{"plugins":{}}"#,
        ] {
            assert!(Conflist::read(text).is_err(), "{text}");
        }
        assert!(wrap(r#"{"name":"n"}"#, ENTRY).is_err());
    }

    #[test]
    fn a_single_plugin_becomes_a_list() {
        let single = "{\n \"cniVersion\": \"0.3.1\", \"name\": \"n\",\n \"type\": \"bridge\", \"ipam\": {\"type\": \"x\"}\n}\n";
        let list = wrap(single, ENTRY).expect("usable");
        let value: serde_json::Value = serde_json::from_str(&list).expect("JSON");
        assert_eq!(value["cniVersion"], "0.3.1");
        assert_eq!(value["name"], "n");
        assert_eq!(value["plugins"][0]["type"], "bridge");
        assert_eq!(value["plugins"][0]["ipam"]["type"], "x");
        assert_eq!(value["plugins"][1]["type"], PLUGIN);
    }
}
