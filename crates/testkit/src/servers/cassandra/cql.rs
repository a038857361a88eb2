//! As much of the CQL protocol (version 4) as looking after a node and statements of a test's own need.
//! <https://github.com/apache/cassandra/blob/trunk/doc/native_protocol_v4.spec>

use anyhow::{Context, ensure};
use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    time::Duration,
};

const TIMEOUT: Duration = Duration::from_secs(10);
const ERROR: u8 = 0x00;
const STARTUP: u8 = 0x01;
const AUTHENTICATE: u8 = 0x03;
const AUTH_RESPONSE: u8 = 0x0f;
const AUTH_SUCCESS: u8 = 0x10;
const QUERY: u8 = 0x07;
const READY: u8 = 0x02;
const RESULT: u8 = 0x08;
const ROWS: u32 = 2;
const ANSWER_BYTES_MAX: usize = 1 << 20;

/// The user that a node with passwords begins with.
pub(super) const FIRST_USER: (&str, &str) = ("cassandra", "cassandra");

/// How many other nodes this one knows, with their data centres.
///
/// # Errors
/// If it does not answer as it should.
pub(super) fn peers(address: SocketAddr) -> anyhow::Result<usize> {
    let mut stream = open(address)?;
    let (kind, body) = query(&mut stream, "SELECT data_center FROM system.peers")?;
    ensure!(kind == RESULT, "no result");
    let mut body = Reader(&body);
    ensure!(body.int()? == ROWS, "no rows");
    // Flags say that the table is named once for all columns; then each column's name and type (no parameters).
    let (_flags, columns) = (body.int()?, body.int()?);
    body.string()?;
    body.string()?;
    for _ in 0..columns {
        body.string()?;
        body.take(2)?;
    }
    Ok(body.int()? as usize)
}

/// Executes a statement whose answer does not matter.
///
/// # Errors
/// If it fails, with what the node says.
pub(super) fn execute(address: SocketAddr, statement: &str) -> anyhow::Result<()> {
    let (kind, body) = query(&mut open(address)?, statement)?;
    ensure!(kind != ERROR, "{statement}: {}", String::from_utf8_lossy(&body));
    Ok(())
}

/// A connection that takes queries.
fn open(address: SocketAddr) -> anyhow::Result<TcpStream> {
    let mut stream = TcpStream::connect_timeout(&address, TIMEOUT)?;
    stream.set_read_timeout(Some(TIMEOUT))?;
    let mut startup = vec![0, 1];
    startup.extend(string("CQL_VERSION"));
    startup.extend(string("3.0.0"));
    let (mut kind, _) = exchange(&mut stream, STARTUP, &startup)?;
    if kind == AUTHENTICATE {
        let (user, password) = FIRST_USER;
        let token = format!("\0{user}\0{password}");
        let mut response = (token.len() as u32).to_be_bytes().to_vec();
        response.extend(token.bytes());
        (kind, _) = exchange(&mut stream, AUTH_RESPONSE, &response)?;
    }
    ensure!([READY, AUTH_SUCCESS].contains(&kind), "not ready");
    Ok(stream)
}

fn query(stream: &mut TcpStream, statement: &str) -> anyhow::Result<(u8, Vec<u8>)> {
    let mut query = (statement.len() as u32).to_be_bytes().to_vec();
    query.extend(statement.bytes());
    // Consistency ONE, no flags.
    query.extend([0, 1, 0]);
    exchange(stream, QUERY, &query)
}

fn string(text: &str) -> Vec<u8> {
    let mut bytes = (text.len() as u16).to_be_bytes().to_vec();
    bytes.extend(text.bytes());
    bytes
}

fn exchange(stream: &mut TcpStream, kind: u8, body: &[u8]) -> anyhow::Result<(u8, Vec<u8>)> {
    let mut frame = vec![4, 0, 0, 0, kind];
    frame.extend((body.len() as u32).to_be_bytes());
    frame.extend(body);
    stream.write_all(&frame)?;
    let mut head = [0; 9];
    stream.read_exact(&mut head)?;
    let length = u32::from_be_bytes([head[5], head[6], head[7], head[8]]) as usize;
    ensure!(length <= ANSWER_BYTES_MAX, "an answer of {length} bytes");
    let mut body = vec![0; length];
    stream.read_exact(&mut body)?;
    Ok((head[4], body))
}

struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, length: usize) -> anyhow::Result<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(length).context("the answer ends early")?;
        self.0 = rest;
        Ok(taken)
    }

    fn int(&mut self) -> anyhow::Result<u32> {
        let bytes = self.take(4)?;
        Ok(u32::from_be_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]))
    }

    fn string(&mut self) -> anyhow::Result<()> {
        let bytes = self.take(2)?;
        self.take(usize::from(u16::from_be_bytes([bytes[0], bytes[1]])))?;
        Ok(())
    }
}
