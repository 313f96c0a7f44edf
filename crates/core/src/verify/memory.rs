//! What was proven before: which object, how closely, and when.
//!
//! A proof is kept as 40 bytes with a checksum of their own, so that a file of them may be appended to, cut off anywhere and
//! damaged in places, and what is left is still right. It counts only for an object that looks the same in a listing.

use std::collections::HashMap;

use jiff::Timestamp;
use rustc_hash::FxBuildHasher;
use sha2::{Digest, Sha256};

use super::request::VerifyLevel;

/// The length of a stored proof, in bytes.
pub const PROOF_BYTES: usize = 40;

/// Half of the SHA-256 of what a proof is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ProofId([u8; 16]);

impl ProofId {
    /// The name of a proof about this; mostly an object's key.
    #[must_use]
    pub fn of(text: &str) -> Self {
        let digest: [u8; 32] = Sha256::digest(text.as_bytes()).into();
        let mut id = [0; 16];
        id.iter_mut().zip(digest).for_each(|(to, from)| *to = from);
        Self(id)
    }
}

/// When an object was last seen to be good.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Proof {
    /// What the listing showed of the object then, as one number.
    pub fingerprint: u64,
    /// When at level hash, in seconds since 1970; 0 for never.
    pub hash_at: u32,
    /// When at level deep.
    pub deep_at: u32,
}

impl Proof {
    /// When it was proven at a level or a closer one, in seconds since 1970.
    #[must_use]
    pub fn at(&self, level: VerifyLevel) -> Option<u32> {
        let at = match level {
            VerifyLevel::Deep => self.deep_at,
            VerifyLevel::Presence | VerifyLevel::Hash => self.hash_at.max(self.deep_at),
        };
        (at > 0).then_some(at)
    }

    fn encode(&self, id: ProofId) -> [u8; PROOF_BYTES] {
        let mut out = [0; PROOF_BYTES];
        let fields =
            id.0.into_iter()
                .chain(self.fingerprint.to_le_bytes())
                .chain(self.hash_at.to_le_bytes())
                .chain(self.deep_at.to_le_bytes());
        out.iter_mut().zip(fields).for_each(|(to, from)| *to = from);
        let crc = out.get(..32).map(crc32c::crc32c).unwrap_or_default();
        // Eight bytes: the second half tells the records of this form from those of others.
        let tail = crc.to_le_bytes().into_iter().chain(*b"WPF1");
        out.iter_mut().skip(32).zip(tail).for_each(|(to, from)| *to = from);
        out
    }

    fn decode(bytes: &[u8; PROOF_BYTES]) -> Option<(ProofId, Self)> {
        let word =
            |at: usize| bytes.get(at..at + 4).and_then(|word| word.try_into().ok()).map(u32::from_le_bytes);
        let crc = bytes.get(..32).map(crc32c::crc32c)?;
        if word(32)? != crc || bytes.get(36..)? != b"WPF1" {
            return None;
        }
        let id = ProofId(bytes.get(..16)?.try_into().ok()?);
        let fingerprint = u64::from_le_bytes(bytes.get(16..24)?.try_into().ok()?);
        Some((id, Self { fingerprint, hash_at: word(24)?, deep_at: word(28)? }))
    }
}

/// All proofs that are remembered.
#[derive(Debug, Clone, Default)]
pub struct ProofMemory {
    proofs: HashMap<ProofId, Proof, FxBuildHasher>,
}

impl ProofMemory {
    /// How many objects it knows.
    #[must_use]
    pub fn len(&self) -> usize {
        self.proofs.len()
    }

    /// Whether it knows none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.proofs.is_empty()
    }

    /// What is known of an object, when it still looks the same.
    #[must_use]
    pub fn get(&self, id: ProofId, fingerprint: u64) -> Option<Proof> {
        self.proofs.get(&id).filter(|proof| proof.fingerprint == fingerprint).copied()
    }

    /// Notes that an object was good; gives what to append to the file.
    pub fn prove(
        &mut self,
        id: ProofId,
        fingerprint: u64,
        level: VerifyLevel,
        at: Timestamp,
    ) -> [u8; PROOF_BYTES] {
        let at = u32::try_from(at.as_second()).unwrap_or_default();
        let known = self.get(id, fingerprint);
        let mut proof = known.unwrap_or(Proof { fingerprint, hash_at: 0, deep_at: 0 });
        match level {
            VerifyLevel::Deep => proof.deep_at = at,
            VerifyLevel::Hash => proof.hash_at = at,
            VerifyLevel::Presence => {}
        }
        self.proofs.insert(id, proof);
        proof.encode(id)
    }

    /// Forgets an object, which was found to be bad; gives what to append to the file.
    pub fn forget(&mut self, id: ProofId) -> [u8; PROOF_BYTES] {
        self.proofs.remove(&id);
        Proof { fingerprint: 0, hash_at: 0, deep_at: 0 }.encode(id)
    }

    /// Reads what was appended to a file, the oldest first. What is damaged is passed over, a cut-off end too; the later word
    /// on an object counts. Returns how many of the records were not readable.
    pub fn read(&mut self, bytes: &[u8]) -> u64 {
        let (records, rest) = bytes.as_chunks::<PROOF_BYTES>();
        let mut unreadable = u64::from(!rest.is_empty());
        for record in records {
            match Proof::decode(record) {
                Some((id, proof)) if proof.hash_at == 0 && proof.deep_at == 0 => {
                    self.proofs.remove(&id);
                }
                Some((id, proof)) => {
                    self.proofs.insert(id, proof);
                }
                None => unreadable += 1,
            }
        }
        unreadable
    }

    /// Keeps the newest proofs alone, so many at most.
    pub fn shrink_to(&mut self, max: usize) {
        let Some(excess) = self.proofs.len().checked_sub(max).filter(|excess| *excess > 0) else { return };
        let mut times: Vec<u32> =
            self.proofs.values().map(|proof| proof.hash_at.max(proof.deep_at)).collect();
        let (older, limit, _) = times.select_nth_unstable(excess - 1);
        let limit = *limit;
        // Of those that are as old as the limit only as many as it takes; all that are older go.
        let mut left = excess - older.iter().filter(|time| **time < limit).count();
        self.proofs.retain(|_, proof| {
            let time = proof.hash_at.max(proof.deep_at);
            let goes = time < limit || (time == limit && left > 0);
            left -= usize::from(goes && time == limit);
            !goes
        });
    }

    /// All of it, for a file that is written anew.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut ids: Vec<(&ProofId, &Proof)> = self.proofs.iter().collect();
        ids.sort_unstable_by_key(|(id, _)| **id);
        ids.into_iter().flat_map(|(id, proof)| proof.encode(*id)).collect()
    }
}
