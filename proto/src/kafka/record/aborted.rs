//! Leaving out the records of aborted transactions, as `read_committed` asks for.
//!
//! **Runs on: any.** A Fetch response lists the aborted transactions that begin in what it returns;
//! a control batch ends each. Source: KIP-98, "Consumer".

use super::{Batch, Body, Compression};
use crate::kafka::codec::Error;
use std::collections::HashSet;

/// A transaction that was aborted, from a Fetch response.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AbortedTransaction {
    /// Whose it is.
    pub producer_id: i64,
    /// The offset of its first record.
    pub first_offset: i64,
}

/// Tells which batches of one partition's record set an application may see.
#[derive(Clone, Debug, Default)]
pub struct AbortedTransactions {
    /// Not reached yet, the earliest last.
    ahead: Vec<AbortedTransaction>,
    /// Producers whose transaction is under way and was aborted.
    open: HashSet<i64>,
}

impl AbortedTransactions {
    /// From the list in the Fetch response, in any order. With an empty list, as it is under
    /// `read_uncommitted`, only control batches are left out.
    pub fn new(transactions: &[AbortedTransaction]) -> AbortedTransactions {
        let mut ahead = transactions.to_vec();
        ahead.sort_unstable_by_key(|transaction| std::cmp::Reverse(transaction.first_offset));
        AbortedTransactions { ahead, open: HashSet::new() }
    }

    /// Whether the records of `batch` are to be seen. Every batch of the record set has to be asked
    /// for, in order.
    ///
    /// # Errors
    /// It is a compressed control batch, which no broker writes: what it ends is not known, and to
    /// inflate it would be at the mercy of its sender.
    pub fn keeps(&mut self, batch: &Batch<'_>) -> Result<bool, Error> {
        while let Some(next) = self.ahead.pop_if(|next| next.first_offset <= batch.last_offset) {
            self.open.insert(next.producer_id);
        }
        if batch.is_control() {
            if is_abort(batch)? {
                self.open.remove(&batch.producer_id);
            }
            return Ok(false);
        }
        Ok(!(batch.is_transactional() && self.open.contains(&batch.producer_id)))
    }
}

/// Whether a control batch aborts a transaction: its record's key is a version and a type, which is
/// 0 for abort.
fn is_abort(batch: &Batch<'_>) -> Result<bool, Error> {
    if batch.compression != Compression::None {
        return Err(Error::Unsupported("compressed control batch"));
    }
    let Some(Ok(record)) = batch.iter(batch.records).next() else { return Ok(false) };
    let key = Body::parse(record.body).ok().and_then(|body| body.key());
    Ok(key.is_some_and(|key| key.get(2..4) == Some(&[0, 0])))
}
