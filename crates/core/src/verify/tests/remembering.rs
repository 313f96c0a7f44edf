//! The memory of proofs against a plain map, and what is left of a damaged file of it.

use std::collections::BTreeMap;

use jiff::Timestamp;
use proptest::prelude::*;

use crate::verify::*;

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(1_795_000_000 + second).unwrap()
}

fn id(number: u8) -> ProofId {
    ProofId::of(&number.to_string())
}

#[derive(Debug, Clone)]
enum Act {
    Prove(u8, u64, bool, i64),
    Forget(u8),
}

fn acts() -> impl Strategy<Value = Vec<Act>> {
    let prove = (0u8..20, 0u64..3, any::<bool>(), 0i64..1000)
        .prop_map(|(number, print, deep, second)| Act::Prove(number, print, deep, second));
    let act = prop_oneof![4 => prove, 1 => (0u8..20).prop_map(Act::Forget)];
    proptest::collection::vec(act, 0..60)
}

/// What a person would write down: fingerprint, last hash, last deep.
type Model = BTreeMap<u8, (u64, Option<i64>, Option<i64>)>;

fn carry_out(acts: &[Act]) -> (ProofMemory, Vec<u8>, Model) {
    let (mut memory, mut file, mut model) = (ProofMemory::default(), Vec::new(), Model::new());
    for act in acts {
        match *act {
            Act::Prove(number, print, deep, second) => {
                let level = if deep { VerifyLevel::Deep } else { VerifyLevel::Hash };
                file.extend(memory.prove(id(number), print, level, at(second)));
                let entry = model.entry(number).or_insert((print, None, None));
                if entry.0 != print {
                    *entry = (print, None, None);
                }
                *(if deep { &mut entry.2 } else { &mut entry.1 }) = Some(second);
            }
            Act::Forget(number) => {
                file.extend(memory.forget(id(number)));
                model.remove(&number);
            }
        }
    }
    (memory, file, model)
}

fn assert_agree(memory: &ProofMemory, model: &Model) {
    assert_eq!(memory.len(), model.len());
    let second = |second: i64| u32::try_from(at(second).as_second()).unwrap();
    for number in 0..20 {
        for print in 0..3 {
            let proof = memory.get(id(number), print);
            let known = model.get(&number).filter(|known| known.0 == print);
            assert_eq!(proof.is_some(), known.is_some());
            let (Some(proof), Some((_, hash, deep))) = (proof, known) else { continue };
            assert_eq!(proof.at(VerifyLevel::Deep), deep.map(second));
            assert_eq!(proof.at(VerifyLevel::Hash), (*hash).max(*deep).map(second));
        }
    }
}

proptest! {
    #[test]
    fn a_file_of_proofs_says_what_was_noted(acts in acts()) {
        let (memory, file, model) = carry_out(&acts);
        assert_agree(&memory, &model);
        let mut read = ProofMemory::default();
        prop_assert_eq!(read.read(&file), 0);
        assert_agree(&read, &model);
        let mut again = ProofMemory::default();
        prop_assert_eq!(again.read(&read.encode()), 0);
        assert_agree(&again, &model);
    }

    #[test]
    fn a_cut_or_flipped_file_never_says_more(acts in acts(), cut: prop::sample::Index, flip: prop::sample::Index, bit in 0u8..8) {
        let (_, mut file, _) = carry_out(&acts);
        prop_assume!(!file.is_empty());
        file.truncate(cut.index(file.len()) + 1);
        let records = file.len() / PROOF_BYTES;
        let mut cut_off = ProofMemory::default();
        cut_off.read(&file);
        let whole = carry_out(&acts[..records.min(acts.len())]).2;
        assert_agree(&cut_off, &whole);
        let at = flip.index(file.len());
        file[at] ^= 1 << bit;
        let mut flipped = ProofMemory::default();
        prop_assert!(flipped.read(&file) >= 1);
        // One record is unreadable; each other one still counts.
        let expected: Vec<u8> = file
            .chunks_exact(PROOF_BYTES)
            .enumerate()
            .filter(|(number, _)| *number != at / PROOF_BYTES)
            .flat_map(|(_, record)| record.to_vec())
            .collect();
        let mut rest = ProofMemory::default();
        prop_assert_eq!(rest.read(&expected), 0);
        prop_assert_eq!(rest.encode(), flipped.encode());
    }

    #[test]
    fn any_bytes_can_be_read(bytes in proptest::collection::vec(any::<u8>(), 0..500)) {
        let mut memory = ProofMemory::default();
        memory.read(&bytes);
        prop_assert!(memory.is_empty());
    }

    #[test]
    fn shrinking_keeps_the_newest(acts in acts(), max in 0usize..20) {
        let (mut memory, _, model) = carry_out(&acts);
        memory.shrink_to(max);
        prop_assert_eq!(memory.len(), model.len().min(max));
        let newest = |entry: &(u64, Option<i64>, Option<i64>)| entry.1.max(entry.2).unwrap();
        let kept = |number: u8, entry: &(u64, Option<i64>, Option<i64>)| memory.get(id(number), entry.0).is_some();
        let oldest_kept = model.iter().filter(|(number, entry)| kept(**number, entry)).map(|(_, entry)| newest(entry)).min();
        let newest_gone = model.iter().filter(|(number, entry)| !kept(**number, entry)).map(|(_, entry)| newest(entry)).max();
        if let (Some(kept), Some(gone)) = (oldest_kept, newest_gone) {
            prop_assert!(kept >= gone);
        }
    }
}

#[test]
fn a_proof_of_the_future_keeps_nothing_from_being_read() {
    let object = |number: u8| VerifyObject {
        subject: Subject::CommitRecord(u32::from(number)),
        bytes: 1,
        written: 0,
        fingerprint: 1,
        id: id(number),
    };
    let backups = [0, 1].map(|salt| crate::layout::BackupId::new(at(0), salt)).to_vec();
    let inventory = VerifyInventory { backups, objects: vec![object(0), object(1)] };
    let mut memory = ProofMemory::default();
    memory.prove(id(0), 1, VerifyLevel::Hash, at(10));
    // By a clock that was ahead.
    memory.prove(id(1), 1, VerifyLevel::Hash, at(1000));
    let request = VerifyRequest {
        level: VerifyLevel::Hash,
        scope: VerifyScope::everything(),
        sample: None,
        max_bytes: None,
        max_age: Some(std::time::Duration::from_secs(100)),
    };
    let plan = plan_verify(&inventory, &memory, &request, at(20));
    assert_eq!((plan.items, plan.fresh.objects), (vec![1], 1));
}

#[test]
fn none_that_is_older_stays_when_one_of_equally_old_ones_goes() {
    let mut memory = ProofMemory::default();
    for number in 0..20 {
        memory.prove(id(number), 1, VerifyLevel::Hash, at(999));
    }
    memory.prove(id(20), 1, VerifyLevel::Hash, at(0));
    memory.shrink_to(1);
    assert!(memory.len() == 1 && memory.get(id(20), 1).is_none());
}
