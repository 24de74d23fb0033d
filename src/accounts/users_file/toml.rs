//! `[[user]]` entries in TOML, changed without touching what stands around them.

use toml_edit::{Array, ArrayOfTables, DocumentMut, InlineTable, Item, RawString, Table, TableLike, Value, value};

use super::Entry;

/// A parsed file.
pub(super) struct Document(DocumentMut);

impl Document {
    /// Reads a file; the error is for people.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        let document: DocumentMut = text.parse().map_err(|error: toml_edit::TomlError| {
            // The library shows the offending line, which may hold a hash.
            let line = error.span().map_or(0, |span| text[..span.start].matches('\n').count() + 1);
            format!("line {line} is no TOML: {}", error.message())
        })?;
        match document.get("user") {
            None | Some(Item::None | Item::ArrayOfTables(_)) => Ok(Self(document)),
            Some(Item::Value(Value::Array(users))) if users.iter().all(Value::is_inline_table) => Ok(Self(document)),
            Some(Item::Table(_) | Item::Value(_)) => Err("`user` is no list: write [[user]] entries".to_owned()),
        }
    }

    pub(super) fn into_text(self) -> String {
        self.0.to_string()
    }

    pub(super) fn entries(&self) -> Vec<Entry> {
        let text = |user: &dyn TableLike, key: &str| user.get(key).and_then(Item::as_str).map(ToOwned::to_owned);
        let texts = |user: &dyn TableLike, key: &str| {
            let list = user.get(key).and_then(Item::as_array);
            list.map_or_else(Vec::new, |list| list.iter().filter_map(Value::as_str).map(ToOwned::to_owned).collect())
        };
        let entry = |user: &dyn TableLike| Entry {
            name: text(user, "name").unwrap_or_default(),
            id: text(user, "id"),
            display_name: text(user, "display_name"),
            email: text(user, "email"),
            second_factor: text(user, "factor").is_some(),
            roles: texts(user, "roles"),
            groups: texts(user, "groups"),
        };
        self.users().into_iter().map(entry).collect()
    }

    pub(super) fn hash(&self, name: &str) -> Option<&str> {
        self.users().into_iter().find(|user| is(*user, name))?.get("password")?.as_str()
    }

    pub(super) fn add(&mut self, entry: &Entry, hash: &str) -> Result<(), String> {
        let mut user = Table::new();
        let mut set = |key: &str, text: &str| user.insert(key, value(text));
        set("name", &entry.name);
        for (key, text) in [("id", &entry.id), ("display_name", &entry.display_name), ("email", &entry.email)] {
            if let Some(text) = text {
                set(key, text);
            }
        }
        set("password", hash);
        if entry.second_factor {
            set("factor", "totp");
        }
        for (key, list) in [("roles", &entry.roles), ("groups", &entry.groups)] {
            if !list.is_empty() {
                user.insert(key, value(list.iter().collect::<Array>()));
            }
        }
        match self.0.entry("user").or_insert_with(|| Item::ArrayOfTables(ArrayOfTables::new())) {
            Item::ArrayOfTables(users) => {
                if !users.is_empty() {
                    user.decor_mut().set_prefix("\n");
                }
                users.push(user);
            }
            Item::Value(Value::Array(users)) => users.push(Value::InlineTable(user.into_inline_table())),
            Item::None | Item::Table(_) | Item::Value(_) => return Err("`user` is no list".to_owned()),
        }
        Ok(())
    }

    /// `None`: nobody has that name.
    pub(super) fn set_hash(&mut self, name: &str, hash: &str) -> Option<Result<(), String>> {
        let set = |user: &mut dyn TableLike| match user.get_mut("password") {
            Some(Item::Value(old @ Value::String(_))) => {
                // What follows on the line stays.
                let decor = old.decor().clone();
                *old = Value::from(hash);
                *old.decor_mut() = decor;
                Ok(())
            }
            Some(_) => Err(format!("the password of {name:?} is kept elsewhere, as its entry says; change it there")),
            None => {
                user.insert("password", value(hash));
                Ok(())
            }
        };
        match self.0.get_mut("user")? {
            Item::ArrayOfTables(users) => users.iter_mut().find(|user| is(*user, name)).map(|user| set(user)),
            Item::Value(Value::Array(users)) => users
                .iter_mut()
                .filter_map(Value::as_inline_table_mut)
                .find(|user| is(*user as &InlineTable, name))
                .map(|user| set(user)),
            Item::None | Item::Table(_) | Item::Value(_) => None,
        }
    }

    /// Takes out an entry with the comment right above it. Comments that a blank line sets apart stay.
    pub(super) fn remove(&mut self, name: &str) -> bool {
        match self.0.get_mut("user") {
            Some(Item::ArrayOfTables(users)) => {
                let Some(index) = users.iter().position(|user| is(user, name)) else {
                    return false;
                };
                let above = users.get(index).and_then(|user| user.decor().prefix()).and_then(RawString::as_str);
                let apart = above.and_then(|above| Some(above[..above.rfind("\n\n")? + 2].to_owned()));
                users.remove(index);
                let is_empty = users.is_empty();
                if let Some(apart) = apart {
                    match users.get_mut(index) {
                        Some(next) => {
                            let own = next.decor().prefix().and_then(RawString::as_str).unwrap_or_default();
                            let both = format!("{apart}{}", own.trim_start_matches('\n'));
                            next.decor_mut().set_prefix(both);
                        }
                        None => {
                            let trailing = self.0.trailing().as_str().unwrap_or_default();
                            let both = format!("{apart}{trailing}");
                            self.0.set_trailing(both);
                        }
                    }
                }
                if is_empty {
                    self.0.remove("user");
                }
                true
            }
            Some(Item::Value(Value::Array(users))) => {
                let found = |user: &Value| user.as_inline_table().is_some_and(|user| is(user, name));
                let index = users.iter().position(found);
                index.map(|index| users.remove(index)).is_some()
            }
            None | Some(Item::None | Item::Table(_) | Item::Value(_)) => false,
        }
    }

    fn users(&self) -> Vec<&dyn TableLike> {
        match self.0.get("user") {
            Some(Item::ArrayOfTables(users)) => users.iter().map(|user| user as &dyn TableLike).collect(),
            Some(Item::Value(Value::Array(users))) => {
                users.iter().filter_map(Value::as_inline_table).map(|user| user as &dyn TableLike).collect()
            }
            None | Some(Item::None | Item::Table(_) | Item::Value(_)) => Vec::new(),
        }
    }
}

fn is(user: &dyn TableLike, name: &str) -> bool {
    user.get("name").and_then(Item::as_str) == Some(name)
}
