//! Which lane goes to which collector: rendezvous hashing, bounded so that no two differ by more than
//! one lane. A function of the names and the number of lanes and of nothing else.

use breeze_proto::shard::LaneCount;

/// The owner of each lane; `None` without members. `members`: distinct, in any order.
pub(super) fn assign<'a>(members: &[&'a str], lanes: LaneCount) -> Vec<Option<&'a str>> {
    let mut owners = vec![None; usize::from(lanes.get())];
    if members.is_empty() {
        return owners;
    }
    let each = owners.len() / members.len();
    // So many may have one more than `each`.
    let mut extras = owners.len() % members.len();
    let mut pairs: Vec<(u64, &str, usize)> = members
        .iter()
        .flat_map(|member| lanes.lanes().map(move |lane| (score(member, lane.number()), *member, lane.number().into())))
        .collect();
    // The best matches first; equal scores in the order of names.
    pairs.sort_by(|a, b| b.0.cmp(&a.0).then(a.1.cmp(b.1)).then(a.2.cmp(&b.2)));
    let mut held = std::collections::HashMap::new();
    for (_, member, lane) in pairs {
        let count: &mut usize = held.entry(member).or_default();
        if owners[lane].is_some() || *count > each || (*count == each && extras == 0) {
            continue;
        }
        extras -= usize::from(*count == each);
        *count += 1;
        owners[lane] = Some(member);
    }
    owners
}

/// 64-bit FNV-1a of the name and the lane, mixed by the finalizer of SplitMix64. Fixed for ever: collectors of
/// different versions share lanes.
fn score(member: &str, lane: u16) -> u64 {
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    for byte in member.bytes().chain([0]).chain(lane.to_be_bytes()) {
        hash = (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
    }
    hash = (hash ^ (hash >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    hash = (hash ^ (hash >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    hash ^ (hash >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn lanes(count: u16) -> LaneCount {
        LaneCount::new(count).expect("in range")
    }

    proptest! {
        #[test]
        fn shares_differ_by_one_at_most_whatever_the_order(
            names in prop::collection::btree_set("[a-z0-9-]{1,12}", 1..20),
            count in 1u16..=16,
        ) {
            let mut members: Vec<&str> = names.iter().map(String::as_str).collect();
            let owners = assign(&members, lanes(count));
            members.reverse();
            prop_assert_eq!(&owners, &assign(&members, lanes(count)));
            let held = |member: &str| owners.iter().filter(|owner| **owner == Some(member)).count();
            let counts: Vec<usize> = members.iter().map(|member| held(member)).collect();
            prop_assert_eq!(counts.iter().sum::<usize>(), usize::from(count));
            prop_assert!(counts.iter().max().expect("some") - counts.iter().min().expect("some") <= 1);
        }
    }

    #[test]
    fn the_hash_is_fixed() {
        assert_eq!(score("collector-1", 0), 0xe6af_d570_a53d_01cd);
        assert_ne!(score("collector-1", 1), score("collector-2", 1));
    }

    #[test]
    fn one_that_joins_moves_few_lanes_between_the_others() {
        let (mut moved, mut needed, mut wandered) = (0, 0, 0);
        for seed in 0..200 {
            let names: Vec<String> = (0..4).map(|member| format!("{seed}-{member}")).collect();
            let names: Vec<&str> = names.iter().map(String::as_str).collect();
            let (before, after) = (assign(&names[..3], lanes(16)), assign(&names, lanes(16)));
            for (before, after) in before.iter().zip(&after).filter(|(before, after)| before != after) {
                assert!(before.is_some());
                moved += 1;
                wandered += usize::from(*after != Some(names[3]));
            }
            needed += after.iter().filter(|owner| **owner == Some(names[3])).count();
        }
        assert_eq!(moved, needed + wandered);
        assert!(wandered * 2 < needed, "{wandered} lanes went from one old member to another, {needed} to the new");
    }

    #[test]
    fn nobody_gets_nothing() {
        assert_eq!(assign(&[], lanes(3)), [None, None, None]);
    }
}
