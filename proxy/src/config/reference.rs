//! Writes the settings reference from the schema: the generated part of docs/settings.md.
#![allow(clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

use serde_json::{Map, Value};

/// The widest line.
const WIDTH: usize = 120;

/// A table of the configuration on its way into the text.
struct Table {
    /// `listener.tls`.
    path: String,
    /// `[[listener]]`.
    heading: String,
    /// The name of its definition.
    definition: String,
    /// What the table that has it says about it.
    about: String,
}

/// All settings, in the order in which the code has them.
pub(super) fn write(schema: &Value) -> String {
    let mut writer = Writer { schema, out: String::new(), seen: Vec::new() };
    for (name, property) in properties(schema) {
        match writer.table("", name, property) {
            Some(table) => writer.section(&table),
            None => {
                writer.out.push_str("\n## In front of the first table\n\n");
                writer.setting(name, property, required(schema, name), None);
            }
        }
    }
    writer.values();
    writer.out
}

struct Writer<'a> {
    schema: &'a Value,
    out: String,
    /// Definitions whose settings have a section, with its heading.
    seen: Vec<(String, String)>,
}

impl Writer<'_> {
    /// The section of a table, and those of the tables in it.
    fn section(&mut self, table: &Table) {
        let schema = self.definition(&table.definition).clone();
        let level = "#".repeat(2 + table.path.matches('.').count().min(2));
        self.out.push_str(&format!("\n{level} `{}`\n\n", table.heading));
        if table.path.contains('.') || table.about == text(&schema, "description") {
            self.wrap("", text(&schema, "description"));
        } else {
            self.wrap("", &format!("{} {}", table.about, text(&schema, "description")));
        }
        self.out.push('\n');
        let mut inner = Vec::new();
        for (name, property) in properties(&schema) {
            let nested = self.table(&table.path, name, property);
            let first = nested.as_ref().is_some_and(|nested| self.is_first(nested));
            self.setting(&format!("{}.{name}", table.path), property, required(&schema, name), nested.as_ref());
            inner.extend(nested.filter(|_| first));
        }
        inner.iter().for_each(|nested| self.section(nested));
    }

    fn setting(&mut self, path: &str, property: &Value, required: bool, nested: Option<&Table>) {
        let about = text(property, "description");
        assert!(!about.is_empty(), "{path} has no doc comment");
        let kind = match nested {
            Some(table) => self.link(table),
            None => self.kind(property),
        };
        let default = match property.get("default") {
            _ if required => "required".into(),
            None => "default: none".into(),
            Some(Value::Array(list)) if list.is_empty() => "default: none".into(),
            Some(default) => format!("default: `{}`", toml(default)),
        };
        let effect = match self.is_watched(property) {
            true => "new contents: while running, another path: restart",
            false => "restart",
        };
        self.out.push_str(&format!("* **`{path}`** · {kind} · {default} · {effect}\\\n"));
        self.wrap("  ", about);
        for (value, about) in self.alternatives(property) {
            self.wrap("  ", &format!("* {value}: {about}"));
        }
    }

    /// What a value is.
    fn kind(&self, property: &Value) -> String {
        if let Some(name) = reference(property) {
            let schema = self.definition(name);
            return match (schema.get("anyOf"), schema.get("oneOf")) {
                _ if schema.get("examples").is_some() => link_to(name),
                (Some(_), _) => self.kind(schema),
                (_, Some(Value::Array(kinds))) => join(kinds.iter().map(|kind| self.kind(kind))),
                _ => self.kind(schema),
            };
        }
        if let Some(Value::Array(kinds)) = property.get("anyOf") {
            return join(kinds.iter().map(|kind| self.kind(kind)));
        }
        if let Some(only) = property.get("const") {
            return format!("`{only}`");
        }
        match text(property, "type") {
            "string" => "text".into(),
            "boolean" => "`true` or `false`".into(),
            "integer" => integer(property),
            "array" => format!("list of: {}", self.kind(&property["items"])),
            "object" => match properties(property).next() {
                Some((name, inner)) => format!("`{{ {name} = … }}` ({})", self.kind(inner)),
                None => "table of texts".into(),
            },
            other => panic!("there is no word for {other:?}: {property}"),
        }
    }

    /// The values of which one is chosen, with what they mean.
    fn alternatives(&self, property: &Value) -> Vec<(String, String)> {
        let items = property.get("items").unwrap_or(property);
        let long = items.get("anyOf").and_then(|kinds| kinds.get(1)).unwrap_or(items);
        let definition = reference(long).map(|name| self.definition(name));
        let Some(Value::Array(kinds)) = definition.and_then(|schema| schema.get("oneOf")) else { return Vec::new() };
        let alternative = |kind: &Value| (self.kind(kind), text(kind, "description").to_owned());
        kinds.iter().map(alternative).filter(|(_, about)| !about.is_empty()).collect()
    }

    /// The table that a setting is, if it is one with settings of its own.
    fn table(&self, path: &str, name: &str, property: &Value) -> Option<Table> {
        let list = text(property, "type") == "array";
        let definition = reference(if list { &property["items"] } else { property })?;
        self.definition(definition).get("properties")?;
        let path = if path.is_empty() { name.to_owned() } else { format!("{path}.{name}") };
        let heading = if list { format!("[[{path}]]") } else { format!("[{path}]") };
        Some(Table { path, heading, definition: definition.into(), about: text(property, "description").into() })
    }

    /// A link to the section of a table, which may be that of another place where the same one stands.
    fn link(&self, table: &Table) -> String {
        let known = self.seen.iter().find(|(definition, _)| *definition == table.definition);
        let heading = known.map_or(&table.heading, |(_, heading)| heading);
        let anchor: String = heading.chars().filter(|c| c.is_alphanumeric() || *c == '_').collect();
        let word = if table.heading.starts_with("[[") { "list of tables" } else { "table" };
        let as_there = if *heading == table.heading { String::new() } else { format!(" as `{heading}`") };
        format!("[{word}{as_there}](#{anchor})")
    }

    /// How values are written that are texts.
    fn values(&mut self) {
        self.out.push_str("\n## How values are written\n");
        let schema = self.schema;
        for (name, definition) in schema["$defs"].as_object().into_iter().flatten() {
            let Some(Value::Array(examples)) = definition.get("examples") else { continue };
            self.out.push_str(&format!("\n### {}\n\n", words(name)));
            let examples: Vec<String> = examples.iter().map(|example| format!("`{example}`")).collect();
            self.wrap("", &format!("{} Examples: {}.", text(definition, "description"), examples.join(", ")));
        }
    }

    fn definition(&self, name: &str) -> &Value {
        self.schema["$defs"].get(name).expect("the definition is there")
    }

    /// Whether a table's settings have no section yet; it gets one then.
    fn is_first(&mut self, table: &Table) -> bool {
        let first = self.seen.iter().all(|(definition, _)| *definition != table.definition);
        if first {
            self.seen.push((table.definition.clone(), table.heading.clone()));
        }
        first
    }

    fn is_watched(&self, property: &Value) -> bool {
        reference(property).is_some_and(|name| self.definition(name).get("x-watched").is_some())
    }

    /// Adds a paragraph; its further lines are set in a little more if it is an item.
    fn wrap(&mut self, indent: &str, text: &str) {
        let further = if text.starts_with("* ") { format!("{indent}  ") } else { indent.to_owned() };
        let mut line = indent.to_owned();
        let mut empty = true;
        for word in text.split(' ') {
            if !empty && line.chars().count() + 1 + word.chars().count() > WIDTH {
                self.out.push_str(&format!("{line}\n"));
                (line, empty) = (further.clone(), true);
            }
            line.push_str(if empty { "" } else { " " });
            line.push_str(word);
            empty = false;
        }
        self.out.push_str(&format!("{line}\n"));
    }
}

fn properties(schema: &Value) -> impl Iterator<Item = (&String, &Value)> {
    schema.get("properties").and_then(Value::as_object).into_iter().flat_map(Map::iter)
}

fn required(schema: &Value, name: &str) -> bool {
    schema.get("required").and_then(Value::as_array).is_some_and(|names| names.iter().any(|it| it == name))
}

fn text<'a>(schema: &'a Value, key: &str) -> &'a str {
    schema.get(key).and_then(Value::as_str).unwrap_or_default()
}

fn reference(schema: &Value) -> Option<&str> {
    text(schema, "$ref").strip_prefix("#/$defs/")
}

/// `an integer, bytes, 8192 to 65536`. The limits of the type itself are left out.
fn integer(schema: &Value) -> String {
    let number = |key| schema.get(key).and_then(Value::as_u64);
    let most = number("maximum").filter(|most| *most != u64::from(u16::MAX) && *most != u64::from(u32::MAX));
    // 65536 is a limit of somebody's choice.
    let range = match (number("minimum").filter(|least| *least > 0), most) {
        (Some(least), Some(most)) => format!(", {least} to {most}"),
        (Some(least), None) => format!(", {least} at least"),
        (None, Some(most)) => format!(", {most} at most"),
        (None, None) => String::new(),
    };
    let unit = text(schema, "x-unit");
    let unit = if unit.is_empty() { String::new() } else { format!(", {unit}") };
    format!("integer{unit}{range}")
}

/// A value as TOML writes it in one line.
fn toml(value: &Value) -> String {
    match value {
        Value::Array(items) => format!("[{}]", items.iter().map(toml).collect::<Vec<_>>().join(", ")),
        Value::Object(table) => {
            let pairs: Vec<String> = table.iter().map(|(key, value)| format!("{key} = {}", toml(value))).collect();
            format!("{{ {} }}", pairs.join(", "))
        }
        single => single.to_string(),
    }
}

/// `WatchedFile` as `Watched file`.
fn words(name: &str) -> String {
    let split = |(at, c): (usize, char)| match c.is_uppercase() && at > 0 {
        true => format!(" {}", c.to_lowercase()),
        false => c.to_string(),
    };
    name.char_indices().map(split).collect()
}

fn link_to(name: &str) -> String {
    let words = words(name).to_lowercase();
    format!("[{words}](#{})", words.replace(' ', "-"))
}

fn join(kinds: impl Iterator<Item = String>) -> String {
    kinds.collect::<Vec<_>>().join(" or ")
}
