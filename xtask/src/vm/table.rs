//! The table in `docs/kernels.md`: what a run has found on which kernel.

use std::path::PathBuf;

use anyhow::{Context as _, bail};
use serde_json::Value;

use crate::command::root;

const BEGIN: &str = "<!-- The table is written by `cargo xtask vm --write-table`. -->";
const END: &str = "<!-- The end of the table. -->";

/// One kernel of the table.
pub(super) struct Row {
    /// `uname -r`.
    release: String,
    /// Columns, each with its title.
    columns: Vec<(String, String)>,
}

impl Row {
    /// What `sluice probe --json` says. `None`: it is not what that prints.
    pub(super) fn new(release: &str, probe: &Value) -> Option<Self> {
        let yes_or_no = |value: &Value| value.as_bool().map(|yes| if yes { "yes" } else { "no" }.to_owned());
        let mut columns = vec![("sockmap".to_owned(), yes_or_no(&probe["sockmap"]["usable"])?)];
        for suite in probe["ktls"]["suites"].as_array()? {
            let version = suite["version"].as_str()?.replace("TLSv", "TLS ");
            let title = format!("{version} {}", suite["cipher"].as_str()?.replace('_', "-"));
            columns.push((title, yes_or_no(&suite["armed"])?));
        }
        columns.push(("new keys".to_owned(), yes_or_no(&probe["ktls"]["rekey"])?));
        Some(Self { release: release.to_owned(), columns })
    }

    /// Which kernel it is about.
    pub(super) fn release(&self) -> &str {
        &self.release
    }

    fn line(&self) -> String {
        let values: Vec<&str> = self.columns.iter().map(|(_, value)| value.as_str()).collect();
        format!("| `{}` | {} |", self.release, values.join(" | "))
    }
}

fn file() -> PathBuf {
    root().join("docs/kernels.md")
}

fn text() -> anyhow::Result<String> {
    let file = file();
    std::fs::read_to_string(&file).with_context(|| format!("cannot read {}", file.display()))
}

/// Writes the table anew.
pub(super) fn write(rows: &[Row]) -> anyhow::Result<()> {
    let file = file();
    let new = with_table(&text()?, rows)?;
    std::fs::write(&file, new).with_context(|| format!("cannot write {}", file.display()))?;
    println!("wrote the table in {}", file.display());
    Ok(())
}

/// Whether the table says the same of this kernel; `true` too if it does not know it.
pub(super) fn agrees(row: &Row) -> anyhow::Result<bool> {
    Ok(agrees_with(&text()?, row))
}

fn agrees_with(text: &str, row: &Row) -> bool {
    let name = format!("| `{}` |", row.release);
    text.lines().filter(|line| line.starts_with(&name)).all(|line| line == row.line())
}

fn with_table(text: &str, rows: &[Row]) -> anyhow::Result<String> {
    let (Some((before, _)), Some((_, after))) = (text.split_once(BEGIN), text.split_once(END)) else {
        bail!("docs/kernels.md lacks the lines {BEGIN} and {END}");
    };
    let first = rows.first().context("there is no kernel to write of")?;
    let titles: Vec<&str> = first.columns.iter().map(|(title, _)| title.as_str()).collect();
    let mut lines =
        vec![format!("| kernel | {} |", titles.join(" | ")), format!("|---|{}", "---|".repeat(titles.len()))];
    lines.extend(rows.iter().map(Row::line));
    Ok(format!("{before}{BEGIN}\n\n{}\n\n{END}{after}", lines.join("\n")))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

    use serde_json::json;

    use super::*;

    fn row(armed: bool) -> Row {
        let suite = json!({ "version": "TLSv1.3", "cipher": "AES_GCM_128", "armed": armed });
        let probe = json!({ "sockmap": { "usable": true }, "ktls": { "rekey": false, "suites": [suite] } });
        Row::new("6.1.0-56", &probe).unwrap()
    }

    #[test]
    fn the_table_is_written_between_its_lines_and_agrees_then() {
        let text = format!("before\n{BEGIN}\nold\n{END}\nafter\n");
        let new = with_table(&text, &[row(true)]).unwrap();
        let table =
            "| kernel | sockmap | TLS 1.3 AES-GCM-128 | new keys |\n|---|---|---|---|\n| `6.1.0-56` | yes | yes | no |";
        assert_eq!(new, format!("before\n{BEGIN}\n\n{table}\n\n{END}\nafter\n"));
        assert_eq!(with_table(&new, &[row(true)]).unwrap(), new);
        assert!(agrees_with(&new, &row(true)));
        assert!(!agrees_with(&new, &row(false)));
        assert!(agrees_with(&text, &row(false)), "it is not in the table");
    }

    #[test]
    fn what_is_no_table_and_no_probe_is_refused() {
        assert!(with_table("nothing", &[row(true)]).is_err());
        assert!(Row::new("6.1", &json!({ "kernel": "6.1" })).is_none());
    }
}
