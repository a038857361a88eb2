//! A block: some runs, column by column, each column packed on its own so that a query unpacks only
//! what it needs.
//!
//! Layout, numbers as varints: count of names, then length and text of each; count of runs, then for
//! each `rows * 2 + same-device flag`, the device (16 bytes) unless the flag is set, and in named
//! tables the name's index; then the packed length of the times and of every column; then these, in
//! order. A packed column is a tag byte and what the tag says. Integrity is the index's crc.

use super::super::MetricsError;
use super::super::varint::{Reader, corrupt, put};
use super::run::{AGGREGATES, Key, Run, Shape, Table};
use breeze_proto::id::DeviceId;
use breeze_proto::limits::MAX_METRIC_NAME_BYTES;
use pco::data_types::Number;
use std::collections::HashMap;
use std::sync::Arc;

/// One value for all rows: 8 bytes.
const CONSTANT: u8 = 0;
/// Integers, by pco.
const INTEGERS: u8 = 1;
/// Floats that are all whole numbers below 2^53, as integers by pco.
const WHOLE: u8 = 2;
/// Floats by pco.
const FLOATS: u8 = 3;
/// Whole floats as distance to their series' minimum (the sum: to count times minimum), by pco.
const OVER_MINIMUM: u8 = 4;
/// As `OVER_MINIMUM`, all distances zero.
const AT_MINIMUM: u8 = 5;

/// pco's effort, 0 to 12; docs/adr/0003 has the figures.
const EFFORT: usize = 4;

/// Packs runs of `shape`; together they have at most [`Shape::block_rows`] rows.
pub(super) fn encode(shape: Shape, runs: &[Run]) -> Result<Vec<u8>, MetricsError> {
    let mut out = Vec::new();
    encode_runs(&mut out, shape, runs);
    let rows = runs.iter().map(|run| run.ts.len()).sum();
    let mut ts: Vec<u32> = Vec::with_capacity(rows);
    let mut cols = vec![Vec::with_capacity(rows); shape.columns()];
    for run in runs {
        ts.extend_from_slice(&run.ts);
        for (all, column) in cols.iter_mut().zip(&run.cols) {
            all.extend_from_slice(column);
        }
    }
    let mut packed = vec![pack(INTEGERS, &ts)?];
    if shape.is_rolled() {
        packed.push(pack_integers(INTEGERS, &cols[0])?);
        for group in cols[1..].chunks(AGGREGATES) {
            pack_group(&mut packed, &cols[0], group)?;
        }
    } else {
        for (index, column) in cols.iter().enumerate() {
            let is_integer = shape.is_integer(index);
            packed.push(if is_integer { pack_integers(INTEGERS, column)? } else { pack_floats(column)? });
        }
    }
    packed.iter().for_each(|column| put(&mut out, column.len() as u64));
    packed.iter().for_each(|column| out.extend_from_slice(column));
    Ok(out)
}

fn encode_runs(out: &mut Vec<u8>, shape: Shape, runs: &[Run]) {
    let mut names: Vec<&str> = Vec::new();
    let mut indices: HashMap<&str, u64> = HashMap::new();
    if shape.table == Table::Named {
        for run in runs {
            indices.entry(&run.key.name).or_insert_with(|| {
                names.push(&run.key.name);
                names.len() as u64 - 1
            });
        }
    }
    put(out, names.len() as u64);
    for name in names {
        put(out, name.len() as u64);
        out.extend_from_slice(name.as_bytes());
    }
    put(out, runs.len() as u64);
    let mut previous = None;
    for run in runs {
        let same = previous == Some(run.key.device);
        put(out, run.ts.len() as u64 * 2 + u64::from(same));
        if !same {
            out.extend_from_slice(&run.key.device.to_bytes());
        }
        if shape.table == Table::Named {
            put(out, indices[&*run.key.name]);
        }
        previous = Some(run.key.device);
    }
}

fn pack<T: Number>(tag: u8, values: &[T]) -> Result<Vec<u8>, MetricsError> {
    let config = pco::ChunkConfig::default().with_compression_level(EFFORT);
    pco::standalone::simple_compress_into(values, &config, vec![tag])
        .map_err(|error| MetricsError::Unavailable(format!("cannot pack a column: {error}")))
}

fn constant(values: &[u64]) -> Option<Vec<u8>> {
    let first = values.first()?;
    values.iter().all(|value| value == first).then(|| {
        let mut out = vec![CONSTANT];
        out.extend_from_slice(&first.to_le_bytes());
        out
    })
}

fn pack_integers(tag: u8, values: &[u64]) -> Result<Vec<u8>, MetricsError> {
    if tag == INTEGERS
        && let Some(out) = constant(values)
    {
        return Ok(out);
    }
    pack(tag, values)
}

fn pack_floats(bits: &[u64]) -> Result<Vec<u8>, MetricsError> {
    if let Some(out) = constant(bits) {
        return Ok(out);
    }
    if let Some(whole) = whole(bits) {
        return pack(WHOLE, &whole);
    }
    let floats: Vec<f64> = bits.iter().map(|&bits| f64::from_bits(bits)).collect();
    pack(FLOATS, &floats)
}

/// Minimum, maximum, sum and last of one series.
fn pack_group(packed: &mut Vec<Vec<u8>>, counts: &[u64], group: &[Vec<u64>]) -> Result<(), MetricsError> {
    let wholes: Option<Vec<Vec<u64>>> = group.iter().map(|column| whole(column)).collect();
    let Some(wholes) = wholes else {
        for column in group {
            packed.push(pack_floats(column)?);
        }
        return Ok(());
    };
    packed.push(pack_floats(&group[0])?);
    let minimum = &wholes[0];
    for (index, column) in wholes.iter().enumerate().skip(1) {
        let base = |row: usize| minimum_times(index, minimum[row], counts[row]);
        let over: Vec<u64> = column.iter().enumerate().map(|(row, v)| v.wrapping_sub(base(row))).collect();
        let is_zero = over.iter().all(|&v| v == 0);
        packed.push(if is_zero { vec![AT_MINIMUM] } else { pack(OVER_MINIMUM, &over)? });
    }
    Ok(())
}

/// What an aggregate is measured from: the sum from count times minimum, the others from the minimum.
fn minimum_times(aggregate: usize, minimum: u64, count: u64) -> u64 {
    if aggregate == 2 { minimum.wrapping_mul(count) } else { minimum }
}

/// The values as integers if all are whole, not negative and exact.
fn whole(bits: &[u64]) -> Option<Vec<u64>> {
    let limit = (1_u64 << 53) as f64;
    bits.iter()
        .map(|&bits| {
            let value = f64::from_bits(bits);
            let integer = value as u64;
            (value < limit && (integer as f64).to_bits() == bits).then_some(integer)
        })
        .collect()
}

/// A block that was read, its columns still packed.
#[derive(Debug)]
pub(super) struct Block<'a> {
    shape: Shape,
    pub(super) runs: Vec<(Key, usize)>,
    rows: usize,
    ts: &'a [u8],
    cols: Vec<&'a [u8]>,
}

impl<'a> Block<'a> {
    pub(super) fn parse(shape: Shape, bytes: &'a [u8]) -> Result<Self, MetricsError> {
        let mut reader = Reader::new(bytes);
        let (runs, rows) = parse_runs(&mut reader, shape)?;
        let mut lengths = Vec::with_capacity(1 + shape.columns());
        for _ in 0..=shape.columns() {
            lengths.push(reader.count(1)?);
        }
        let ts = reader.take(lengths[0])?;
        let cols = lengths[1..].iter().map(|&len| reader.take(len)).collect::<Result<_, _>>()?;
        if reader.remaining() != 0 {
            return Err(corrupt("a block has bytes left over"));
        }
        Ok(Self { shape, runs, rows, ts, cols })
    }

    /// Takes the block apart: the runs that `wanted` accepts, with the given columns filled.
    pub(super) fn unpack(self, columns: &[usize], wanted: impl Fn(&Key) -> bool) -> Result<Vec<Run>, MetricsError> {
        if !self.runs.iter().any(|(key, _)| wanted(key)) {
            return Ok(Vec::new());
        }
        let (tag, packed) = self.ts.split_first().ok_or_else(|| corrupt("a column is empty"))?;
        if *tag != INTEGERS {
            return Err(corrupt("a block's times have an unknown tag"));
        }
        let ts: Vec<u32> = unpack(packed, self.rows)?;
        let mut cols: Vec<Vec<u64>> = vec![Vec::new(); self.shape.columns()];
        for &column in columns {
            cols[column] = self.column(column)?;
        }
        let mut start = 0;
        let mut out = Vec::new();
        for (key, rows) in self.runs {
            let end = start + rows;
            if wanted(&key) {
                let part = |column: &Vec<u64>| column.get(start..end).unwrap_or_default().to_vec();
                out.push(Run { key, ts: ts[start..end].to_vec(), cols: cols.iter().map(part).collect() });
            }
            start = end;
        }
        Ok(out)
    }

    fn column(&self, index: usize) -> Result<Vec<u64>, MetricsError> {
        let (tag, packed) = self.cols[index].split_first().ok_or_else(|| corrupt("a column is empty"))?;
        match *tag {
            CONSTANT => {
                let bytes = packed.try_into().map_err(|_| corrupt("a constant is not 8 bytes"))?;
                Ok(vec![u64::from_le_bytes(bytes); self.rows])
            }
            INTEGERS => unpack(packed, self.rows),
            WHOLE => Ok(unpack::<u64>(packed, self.rows)?.into_iter().map(|v| (v as f64).to_bits()).collect()),
            FLOATS => Ok(unpack::<f64>(packed, self.rows)?.into_iter().map(f64::to_bits).collect()),
            OVER_MINIMUM | AT_MINIMUM => self.over_minimum(index, *tag, packed),
            tag => Err(MetricsError::Corrupt(format!("a column has the unknown tag {tag}"))),
        }
    }

    fn over_minimum(&self, index: usize, tag: u8, packed: &[u8]) -> Result<Vec<u64>, MetricsError> {
        let aggregate = index.wrapping_sub(1) % AGGREGATES;
        if !self.shape.is_rolled() || index == 0 || aggregate == 0 {
            return Err(corrupt("a column is measured from itself"));
        }
        let minimum = self.column(index - aggregate)?;
        let counts = if aggregate == 2 { self.column(0)? } else { vec![1; self.rows] };
        let over = if tag == AT_MINIMUM { vec![0; self.rows] } else { unpack(packed, self.rows)? };
        let bases = minimum.iter().zip(counts).map(|(&m, c)| minimum_times(aggregate, f64::from_bits(m) as u64, c));
        Ok(bases.zip(over).map(|(base, over): (u64, u64)| (base.wrapping_add(over) as f64).to_bits()).collect())
    }
}

fn parse_runs(reader: &mut Reader<'_>, shape: Shape) -> Result<(Vec<(Key, usize)>, usize), MetricsError> {
    let mut names: Vec<Arc<str>> = Vec::new();
    for _ in 0..reader.count(2)? {
        let len = reader.count(1)?;
        if len > MAX_METRIC_NAME_BYTES {
            return Err(corrupt("a name is too long"));
        }
        let text = std::str::from_utf8(reader.take(len)?).map_err(|_| corrupt("a name is not text"))?;
        names.push(Arc::from(text));
    }
    let unnamed: Arc<str> = Arc::from("");
    let count = reader.count(1)?;
    let mut runs: Vec<(Key, usize)> = Vec::with_capacity(count);
    let mut total = 0_usize;
    for _ in 0..count {
        let head = reader.varint()?;
        let device = if head & 1 == 0 {
            DeviceId::from_slice(reader.take(16)?).ok_or_else(|| corrupt("a device's id is cut short"))?
        } else {
            runs.last().ok_or_else(|| corrupt("the first run has no device"))?.0.device
        };
        let name = match shape.table {
            Table::Scalars => Arc::clone(&unnamed),
            Table::Named => {
                let index = usize::try_from(reader.varint()?).map_err(|_| corrupt("a name's index is too large"))?;
                Arc::clone(names.get(index).ok_or_else(|| corrupt("a name's index is too large"))?)
            }
        };
        let rows = usize::try_from(head >> 1).map_err(|_| corrupt("a run is too long"))?;
        total = total.saturating_add(rows);
        if total > shape.block_rows() {
            return Err(corrupt("a block has too many rows"));
        }
        runs.push((Key { device, name }, rows));
    }
    Ok((runs, total))
}

fn unpack<T: Number + Default>(packed: &[u8], rows: usize) -> Result<Vec<T>, MetricsError> {
    let mut values = vec![T::default(); rows];
    let progress = pco::standalone::simple_decompress_into(packed, &mut values)
        .map_err(|error| MetricsError::Corrupt(format!("a column does not unpack: {error}")))?;
    if progress.n_processed != rows {
        return Err(corrupt("a column is shorter than its rows"));
    }
    Ok(values)
}

#[cfg(test)]
mod tests {
    use super::super::super::Resolution;
    use super::*;
    use proptest::prelude::*;

    fn arbitrary_run(table: Table) -> impl Strategy<Value = Run> {
        let value = prop_oneof![0_u64..1000, any::<u64>()];
        let float = prop_oneof![(0_u32..1000).prop_map(f64::from), -1e6..1e6_f64];
        (
            0_u8..3,
            "[a-c]{1,2}",
            prop::collection::btree_map(0_u32..86_400_000, (prop::array::uniform12(value), float), 1..40),
        )
            .prop_map(move |(device, name, rows)| {
                let device = DeviceId::from_slice(&[device; 16]).expect("16 bytes");
                let name = Arc::from(if table == Table::Scalars { "" } else { name.as_str() });
                let mut run = Run::new(Key { device, name }, table.series());
                for (ts, (scalars, float)) in rows {
                    run.ts.push(ts);
                    match table {
                        Table::Scalars => run.cols.iter_mut().zip(scalars).for_each(|(column, v)| column.push(v)),
                        Table::Named => run.cols[0].push(float.to_bits()),
                    }
                }
                run
            })
    }

    fn check(shape: Shape, runs: Vec<Run>) -> Result<(), TestCaseError> {
        let bytes = encode(shape, &runs).expect("encode");
        let all: Vec<usize> = (0..shape.columns()).collect();
        let back = Block::parse(shape, &bytes).expect("parse").unpack(&all, |_| true).expect("unpack");
        prop_assert_eq!(back, runs);
        for cut in [0, bytes.len() / 2, bytes.len() - 1] {
            let torn = Block::parse(shape, &bytes[..cut]).and_then(|block| block.unpack(&all, |_| true));
            prop_assert!(torn.is_err());
        }
        Ok(())
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(48))]
        #[test]
        fn blocks_come_back(scalars in prop::collection::vec(arbitrary_run(Table::Scalars), 1..6), named in prop::collection::vec(arbitrary_run(Table::Named), 1..6)) {
            for runs in [scalars, named] {
                let table = if runs[0].cols.len() == 1 { Table::Named } else { Table::Scalars };
                let raw = Shape { table, resolution: Resolution::Raw };
                let rolled: Vec<Run> = runs.iter().map(|run| run.roll_up(raw, Resolution::FiveMinutes)).collect();
                check(raw, runs)?;
                check(Shape { table, resolution: Resolution::FiveMinutes }, rolled)?;
            }
        }

        #[test]
        fn hostile_blocks_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..300), rolled in any::<bool>()) {
            let resolution = if rolled { Resolution::Hour } else { Resolution::Raw };
            for table in Table::BOTH {
                let shape = Shape { table, resolution };
                let all: Vec<usize> = (0..shape.columns()).collect();
                let _result = Block::parse(shape, &bytes).and_then(|block| block.unpack(&all, |_| true));
            }
        }
    }
}
