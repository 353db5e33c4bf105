//! `sluice probe`.

use crate::config::{Config, EngineChoice};
use crate::keeper;
use crate::kernel::probe;
use crate::sys::privileges;

/// Pairs that the trial's maps are made for.
const TRIAL_PAIRS: u32 = 16;

/// Prints what this kernel and these privileges allow, and why not more.
///
/// # Errors
/// The limit on open files cannot be read.
pub(super) fn print() -> anyhow::Result<()> {
    let kernel = rustix::system::uname();
    println!("kernel        {}", kernel.release().to_string_lossy());
    let held = probe::capabilities();
    let held: Vec<_> = held.iter().map(|(name, held)| format!("{name} {}", if *held { "yes" } else { "no" })).collect();
    println!("capabilities  {}", held.join(", "));
    let files = privileges::raise_open_files()?;
    println!("open files    {files}: up to {} pairs", keeper::pairs_for(files));
    let backlog_limit = Config::default().relay.backlog_limit;
    match probe::kernel(EngineChoice::Auto, TRIAL_PAIRS, backlog_limit) {
        Ok(_) => {
            println!("sockmap       yes: a trial pair carried its bytes both ways");
            println!("plain pairs   sockmap");
        }
        Err(refusal) => {
            println!("sockmap       no ({}): {}", refusal.why_not.label(), refusal.detail);
            println!("plain pairs   copy");
        }
    }
    match probe::ktls() {
        Ok(()) => println!("kTLS          yes, but no engine uses it"),
        Err(why) => println!("kTLS          no: {why}"),
    }
    println!("TLS pairs     copy (tls-in-userspace)");
    Ok(())
}
