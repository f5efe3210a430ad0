//! How much harm the fault tests do: what each run can afford, or all that `tests/run faults --full`
//! asks for.
//!
//! **Runs on: any.**

use std::time::Duration;

/// Amounts of harm.
#[derive(Clone, Copy, Debug)]
pub struct Harm {
    /// How long a broker is away.
    pub outage: Duration,
    /// How often a gateway is killed.
    pub kills: usize,
}

/// What this run does; `TRINE_FULL` asks for all.
pub fn harm() -> Harm {
    let (outage_s, kills) =
        if std::env::var_os("TRINE_FULL").is_some() { (60, 30) } else { (10, 5) };
    Harm { outage: Duration::from_secs(outage_s), kills }
}
