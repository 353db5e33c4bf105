//! `sluice probe`.

use std::fmt;

use serde::Serialize;

use super::out;
use crate::config::{Config, EngineChoice};
use crate::handoff::{Engine, WhyNot};
use crate::keeper;
use crate::kernel::probe;
use crate::ktls::Ability;
use crate::sys::privileges;

/// Pairs that the trial's maps are made for.
const TRIAL_PAIRS: u32 = 16;

/// What this kernel and these privileges allow.
#[derive(Serialize)]
struct Report {
    /// Its release.
    kernel: String,
    capabilities: Vec<(&'static str, bool)>,
    open_files: u64,
    /// How many pairs so many files allow.
    pairs: u32,
    sockmap: Usable,
    ktls: Ktls,
}

/// An engine.
#[derive(Serialize)]
struct Usable {
    usable: bool,
    /// The word in metrics, and the explanation.
    #[serde(skip_serializing_if = "Option::is_none")]
    why: Option<(&'static str, String)>,
}

/// The `ktls` engine, suite by suite.
#[derive(Serialize)]
struct Ktls {
    #[serde(flatten)]
    usable: Usable,
    /// Keys can be changed on a live connection.
    rekey: bool,
    suites: Vec<SuiteRow>,
}

#[derive(Serialize)]
struct SuiteRow {
    version: &'static str,
    cipher: &'static str,
    armed: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    why: Option<String>,
}

/// Prints what this kernel and these privileges allow, and why not more.
///
/// # Errors
/// The limit on open files cannot be read.
pub(super) fn print(json: bool) -> anyhow::Result<()> {
    let report = find()?;
    out::print(&if json { serde_json::to_string(&report)? } else { report.to_string() })
}

fn find() -> anyhow::Result<Report> {
    let open_files = privileges::raise_open_files()?;
    let backlog_limit = Config::default().relay.backlog_limit;
    let refusal = probe::kernel(EngineChoice::Auto, TRIAL_PAIRS, backlog_limit).err();
    let ability = Ability::find();
    Ok(Report {
        kernel: rustix::system::uname().release().to_string_lossy().into_owned(),
        capabilities: probe::capabilities(),
        open_files,
        pairs: keeper::pairs_for(open_files),
        sockmap: Usable::unless(refusal.map(|refusal| (refusal.why_not, refusal.detail))),
        ktls: Ktls {
            usable: Usable::unless(ability.why_none().map(|why| (WhyNot::NoKtls, why.to_owned()))),
            rekey: ability.rekey,
            suites: ability.suites.iter().map(SuiteRow::of).collect(),
        },
    })
}

impl Usable {
    fn unless(why: Option<(WhyNot, String)>) -> Self {
        Self { usable: why.is_none(), why: why.map(|(word, detail)| (word.label(), detail)) }
    }

    fn text(&self, yes: &str) -> String {
        match &self.why {
            None => format!("yes: {yes}"),
            Some((word, detail)) => format!("no ({word}): {detail}"),
        }
    }
}

impl SuiteRow {
    fn of(known: &crate::ktls::SuiteAbility) -> Self {
        Self {
            version: known.suite.version.label(),
            cipher: known.suite.cipher.label(),
            armed: known.lack.is_none(),
            why: known.lack.as_ref().map(|lack| lack.text().to_owned()),
        }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let held = self.capabilities.iter().map(|(name, held)| format!("{name} {}", if *held { "yes" } else { "no" }));
        writeln!(f, "kernel        {}", self.kernel)?;
        writeln!(f, "capabilities  {}", held.collect::<Vec<_>>().join(", "))?;
        writeln!(f, "open files    {}: up to {} pairs", self.open_files, self.pairs)?;
        writeln!(f, "sockmap       {}", self.sockmap.text("a trial pair carried its bytes both ways"))?;
        let change = if self.ktls.rekey { "keys can be changed" } else { "keys cannot be changed" };
        writeln!(
            f,
            "ktls          {}",
            self.ktls.usable.text(&format!("trial connections carried records; {change}"))
        )?;
        for row in self.ktls.suites.iter().filter(|_| self.ktls.usable.usable) {
            let armed = row.why.as_deref().map_or("yes".into(), |why| format!("no: {why}"));
            writeln!(f, "              {} {:<17} {armed}", row.version, row.cipher)?;
        }
        let choose = |usable: &Usable, best: Engine| if usable.usable { best } else { Engine::Copy }.label();
        writeln!(f, "plain pairs   {}", choose(&self.sockmap, Engine::Sockmap))?;
        write!(f, "TLS pairs     {}", choose(&self.ktls.usable, Engine::Ktls))
    }
}
