//! From files to one configuration: includes, values from elsewhere, and everything checked as a whole.

use std::collections::HashMap;
use std::io;
use std::path::Path;

use serde::Deserialize as _;
use toml::de::{DeTable, Deserializer};

use super::error::shown;
use super::expand::{self, Hidden};
use super::{Config, ConfigError, include, text};

/// The name that stands for standard input.
const STANDARD_INPUT: &str = "-";

/// The most that one file of a configuration may hold, in bytes.
const LONGEST: u64 = 16 * 1024 * 1024;

fn text_of(path: &Path) -> io::Result<String> {
    text::read(std::fs::File::open(path)?, LONGEST)
}

/// One file's part.
struct Part {
    name: String,
    config: Config,
    /// The tables in it, with their lines.
    tables: Vec<(String, usize)>,
}

impl Part {
    fn parse(text: &str, name: &str, folder: &Path, hidden: &mut Hidden) -> Result<Self, ConfigError> {
        let wrong = |what| ConfigError::Parse { name: name.into(), what };
        let mut root = DeTable::parse(text).map_err(|error| wrong(shown(text, &error, None)))?;
        let tables = root.get_ref().keys();
        let tables = tables.map(|key| (key.get_ref().to_string(), line(text, key.span().start))).collect();
        let places = expand::expand(root.get_mut(), folder, hidden)
            .map_err(|expand::Wrong { at, what }| wrong(format!("line {}: {what}", line(text, at))))?;
        let config = Config::deserialize(Deserializer::from(root)).map_err(|mut error| {
            error.set_input(Some(text));
            let at = error.span().unwrap_or_default();
            // Of a value that something was put in, a message may show any part; one about what is around it, all of it.
            let put_in = places.iter().find(|place| place.start <= at.start && at.end <= place.end);
            wrong(hidden.hide(&shown(text, &error, put_in.and_then(|place| text.get(place.clone())))))
        })?;
        Ok(Self { name: name.into(), config, tables })
    }
}

fn line(text: &str, at: usize) -> usize {
    1 + text.bytes().take(at).filter(|byte| *byte == b'\n').count()
}

impl Config {
    /// Reads and checks a file, with those that it includes; `-` is standard input.
    ///
    /// # Errors
    /// The file, one that it includes, or one with an error body, cannot be read; it is not TOML, holds an unknown key,
    /// or contradicts itself. The message has the file's name and, for what TOML can place, the line.
    pub fn load(path: &Path) -> Result<Self, ConfigError> {
        let name = Self::name(path);
        let (text, folder) = match path == Path::new(STANDARD_INPUT) {
            true => (text::read(io::stdin(), LONGEST), Path::new(".")),
            false => (text_of(path), path.parent().unwrap_or(Path::new("."))),
        };
        let text = text.map_err(|reason| ConfigError::Read { path: name.clone().into(), reason })?;
        let (mut config, name) = Self::assemble(&text, &name, folder)?;
        config.check(&name)?;
        config.resolve_paths(folder);
        let (errors, hidden) = (&mut config.errors, &config.hidden);
        errors.iter_mut().try_for_each(|page| page.load(folder)).map_err(|error| match error {
            ConfigError::ErrorBody { path, reason } => {
                ConfigError::ErrorBody { path: hidden.hide(&path.display().to_string()).into(), reason }
            }
            other => other,
        })?;
        // Once more, with what the files hold.
        config.check(&name)?;
        Ok(config)
    }

    /// What a file is called in messages.
    #[must_use]
    pub fn name(path: &Path) -> String {
        if path == Path::new(STANDARD_INPUT) { "standard input".into() } else { path.display().to_string() }
    }

    /// Parses and checks a text; `name` stands for the file in messages.
    ///
    /// # Errors
    /// As [`Config::load`], except for reading.
    pub fn parse(text: &str, name: &str) -> Result<Self, ConfigError> {
        let (config, name) = Self::assemble(text, name, Path::new("."))?;
        config.check(&name)?;
        Ok(config)
    }

    /// A message without what `${…}` stands for.
    #[must_use]
    pub fn hide(&self, message: &str) -> String {
        self.hidden.hide(message)
    }

    /// One configuration of a text and of what it includes, and what that is called.
    fn assemble(text: &str, name: &str, folder: &Path) -> Result<(Self, String), ConfigError> {
        let mut hidden = Hidden::default();
        let Part { mut config, tables, .. } = Part::parse(text, name, folder, &mut hidden)?;
        let wrong = |name: &str, what| ConfigError::Contradiction { name: name.into(), what };
        let placed = |(table, line)| (table, format!("{name}, line {line}"));
        let mut owners: HashMap<String, String> = tables.into_iter().map(placed).collect();
        let files = include::files(&config.include, folder).map_err(|what| wrong(name, hidden.hide(&what)))?;
        let name = if files.is_empty() { name.to_owned() } else { format!("{name} with what it includes") };
        for path in files {
            let name = hidden.hide(&path.display().to_string());
            let text = text_of(&path).map_err(|reason| ConfigError::Read { path: name.clone().into(), reason })?;
            let part = Part::parse(&text, &name, folder, &mut hidden)?;
            config.take(part, &mut owners)?;
        }
        (config.include, config.hidden) = (Vec::new(), hidden);
        Ok((config, name))
    }

    /// Adds another file's part. A table that there is one of may be in one file only.
    fn take(&mut self, part: Part, owners: &mut HashMap<String, String>) -> Result<(), ConfigError> {
        let Part { name, config: mut more, tables } = part;
        self.listeners.append(&mut more.listeners);
        self.routes.append(&mut more.routes);
        self.auth.append(&mut more.auth);
        self.backends.append(&mut more.backends);
        self.errors.append(&mut more.errors);
        for (table, line) in tables {
            let place = format!("{name}, line {line}");
            match table.as_str() {
                "admin" => self.admin = more.admin.take(),
                "forwarded" => std::mem::swap(&mut self.forwarded, &mut more.forwarded),
                "relay" => std::mem::swap(&mut self.relay, &mut more.relay),
                "timeouts" => std::mem::swap(&mut self.timeouts, &mut more.timeouts),
                "limits" => std::mem::swap(&mut self.limits, &mut more.limits),
                "access" => std::mem::swap(&mut self.access, &mut more.access),
                "dns" => std::mem::swap(&mut self.dns, &mut more.dns),
                "process" => std::mem::swap(&mut self.process, &mut more.process),
                "include" => {
                    let what = "an included file cannot include others: name them where it is included".into();
                    return Err(ConfigError::Contradiction { name: place, what });
                }
                _ => continue,
            }
            if let Some(other) = owners.insert(table.clone(), place.clone()) {
                let what = format!("[{table}] is in {other} as well, and there can be one");
                return Err(ConfigError::Contradiction { name: place, what });
            }
        }
        Ok(())
    }
}

#[cfg(test)]
#[path = "load_tests.rs"]
mod tests;
