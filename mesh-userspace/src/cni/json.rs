//! Where in a JSON text its values lie, so that a text can be passed on, or changed in one place, with every other byte as
//! it was.

use std::ops::Range;

/// A JSON text that is known to be valid.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Text<'a>(&'a str);

impl<'a> Text<'a> {
    /// Checks it.
    ///
    /// # Errors
    /// What is wrong with it, and where.
    pub(crate) fn check(text: &'a str) -> Result<Self, serde_json::Error> {
        serde_json::from_str::<serde::de::IgnoredAny>(text)?;
        Ok(Self(text))
    }

    /// The text itself.
    pub(crate) fn get(self) -> &'a str {
        self.0
    }

    /// The whole value, without the spaces around it.
    pub(crate) fn whole(self) -> Range<usize> {
        let start = self.skip_space(0);
        start..self.skip_value(start)
    }

    /// The value of an object's member; the last one, as every reader takes it, where a name is there twice.
    pub(crate) fn member(self, object: &Range<usize>, name: &str) -> Option<Range<usize>> {
        if !self.begins(object, b'{') {
            return None;
        }
        let mut found = None;
        for key in self.items(object) {
            let value = self.skip_space(self.skip_space(key.end) + 1);
            let value = value..self.skip_value(value);
            if serde_json::from_str::<String>(&self.0[key]).is_ok_and(|key| key == name) {
                found = Some(value);
            }
        }
        found
    }

    /// The elements of an array.
    pub(crate) fn elements(self, array: &Range<usize>) -> Vec<Range<usize>> {
        match self.begins(array, b'[') {
            true => self.items(array),
            false => Vec::new(),
        }
    }

    /// A value that is a text.
    pub(crate) fn text(self, value: &Range<usize>) -> Option<String> {
        serde_json::from_str(&self.0[value.clone()]).ok()
    }

    fn begins(self, value: &Range<usize>, with: u8) -> bool {
        self.byte(value.start) == Some(with)
    }

    fn byte(self, at: usize) -> Option<u8> {
        self.0.as_bytes().get(at).copied()
    }

    /// The elements of an array, or the names of an object's members.
    fn items(self, container: &Range<usize>) -> Vec<Range<usize>> {
        let mut items = Vec::new();
        let mut at = self.skip_space(container.start + 1);
        while at < container.end.saturating_sub(1) {
            let item = at..self.skip_value(at);
            at = self.skip_space(item.end);
            if self.byte(at) == Some(b':') {
                at = self.skip_space(self.skip_value(self.skip_space(at + 1)));
            }
            if self.byte(at) == Some(b',') {
                at = self.skip_space(at + 1);
            }
            items.push(item);
        }
        items
    }

    fn skip_space(self, mut at: usize) -> usize {
        while let Some(b' ' | b'\t' | b'\r' | b'\n') = self.byte(at) {
            at += 1;
        }
        at
    }

    fn skip_value(self, start: usize) -> usize {
        match self.byte(start) {
            Some(b'"') => self.skip_text(start),
            Some(b'{' | b'[') => self.skip_container(start),
            // A number or a word.
            _ => {
                let rest = &self.0.as_bytes()[start.min(self.0.len())..];
                let length = rest.iter().position(|byte| {
                    matches!(byte, b',' | b'}' | b']' | b' ' | b'\t' | b'\r' | b'\n')
                });
                start + length.unwrap_or(rest.len())
            }
        }
    }

    fn skip_text(self, start: usize) -> usize {
        let mut at = start + 1;
        loop {
            match self.byte(at) {
                Some(b'\\') => at += 2,
                Some(b'"') => return at + 1,
                Some(_) => at += 1,
                None => return self.0.len(),
            }
        }
    }

    fn skip_container(self, start: usize) -> usize {
        let mut depth = 0_usize;
        let mut at = start;
        while let Some(byte) = self.byte(at) {
            match byte {
                b'"' => {
                    at = self.skip_text(at);
                    continue;
                }
                b'{' | b'[' => depth += 1,
                b'}' | b']' => depth -= 1,
                _ => {}
            }
            at += 1;
            if depth == 0 {
                return at;
            }
        }
        self.0.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn members_and_elements_are_found_whatever_lies_between() {
        let text = r#" { "a\"}" : [1, "]", {"b": [ ]}, -2.5e3 ,null] , "plugins":[ ], "x": "é{" , "x": true } "#;
        let text = Text::check(text).expect("valid");
        let whole = text.whole();
        let of = |range: Range<usize>| &text.get()[range];
        let array = text.member(&whole, "a\"}").expect("there");
        let elements: Vec<&str> = text.elements(&array).into_iter().map(of).collect();
        assert_eq!(elements, ["1", "\"]\"", r#"{"b": [ ]}"#, "-2.5e3", "null"]);
        let plugins = text.member(&whole, "plugins").expect("there");
        assert_eq!(of(plugins.clone()), "[ ]");
        assert!(text.elements(&plugins).is_empty());
        assert_eq!(of(text.member(&whole, "x").expect("there")), "true");
        assert_eq!(text.member(&whole, "b"), None);
        assert!(text.elements(&whole).is_empty());
        assert!(Text::check("{").is_err());
    }

    #[test]
    fn every_value_of_a_text_is_what_serde_reads() {
        let text = r#"{"cniVersion":"0.4.0","plugins":[{"type":"ptp","n":{"x":[1,2,{"y":"\\\" ,"}]}},{"type":"portmap"}],"z":0}"#;
        let checked = Text::check(text).expect("valid");
        let value: serde_json::Value = serde_json::from_str(text).expect("valid");
        let whole = checked.whole();
        for (name, expected) in value.as_object().expect("an object") {
            let range = checked.member(&whole, name).expect("there");
            let found: serde_json::Value = serde_json::from_str(&text[range]).expect("valid");
            assert_eq!(&found, expected);
        }
    }
}
