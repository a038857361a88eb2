//! TCP, for networks without UDP: TLS as any browser speaks it, a WebSocket in it, and the agent's own
//! TLS inside that, so that whoever opens the outer one sees nothing.

use super::{CLOSE_PATIENCE, Dialer, Events, LinkEvent, Order, chunks, encode, read_frames, split_host_port};
use crate::proxy::dial;
use anyhow::{Context as _, bail};
use breeze_proto::{limits::MAX_FRAME_BYTES, v1::Relay};
use bytes::{Buf as _, Bytes};
use futures_util::{Sink as _, Stream as _};
use rustls_pki_types::ServerName;
use std::{
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};
use tokio::{
    io::{AsyncRead, AsyncWrite, AsyncWriteExt as _, ReadBuf, WriteHalf},
    net::TcpStream,
    sync::mpsc,
};
use tokio_rustls::{TlsConnector, client::TlsStream};
use tokio_tungstenite::{
    WebSocketStream,
    tungstenite::{Error as WebSocketError, Message, client::IntoClientRequest as _, protocol::WebSocketConfig},
};

const PATH: &str = "/agent";
/// Of the byte stream in one message.
const MAX_MESSAGE_BYTES: usize = 16 * 1024;

type Outer = WebSocketStream<TlsStream<TcpStream>>;
type Inner = TlsStream<Bytestream>;

pub(super) async fn run(
    dialer: &Dialer,
    relay: &Relay,
    orders: mpsc::Receiver<Order>,
    events: &Events,
) -> anyhow::Result<()> {
    let outer = open_outer(dialer, &relay.wss).await?;
    let connector = TlsConnector::from(Arc::new(dialer.relay_tls(&relay.id)?));
    // The relay is known by its id; the name only fills the field.
    let name = ServerName::try_from("relay.breeze.internal").context("server name")?;
    let inner =
        connector.connect(name, Bytestream::new(outer)).await.context("TLS to the relay inside the WebSocket")?;
    events.report(LinkEvent::Connected).await;
    let (receive, send) = tokio::io::split(inner);
    tokio::select! {
        biased;
        ended = carry_out(send, orders) => ended,
        ended = read_frames(receive, events) => ended.and_then(|()| bail!("the relay ended the connection")),
    }
}

async fn open_outer(dialer: &Dialer, address: &str) -> anyhow::Result<Outer> {
    let (host, port) = split_host_port(address)?;
    let stream = dial(host, port, &dialer.proxy).await?;
    let mut tls = dialer.web_tls()?;
    tls.alpn_protocols = vec![b"http/1.1".to_vec()];
    let name = ServerName::try_from(host.to_owned()).with_context(|| format!("{host:?} is not a host name"))?;
    let stream =
        TlsConnector::from(Arc::new(tls)).connect(name, stream).await.with_context(|| format!("TLS to {address}"))?;
    let request = format!("wss://{address}{PATH}").into_client_request().context("WebSocket address")?;
    let config = WebSocketConfig::default()
        .read_buffer_size(MAX_MESSAGE_BYTES)
        .write_buffer_size(0)
        .max_write_buffer_size(4 * MAX_FRAME_BYTES)
        .max_message_size(Some(2 * MAX_FRAME_BYTES))
        .max_frame_size(Some(2 * MAX_FRAME_BYTES));
    let (socket, _response) = tokio_tungstenite::client_async_with_config(request, stream, Some(config))
        .await
        .with_context(|| format!("no WebSocket at {address}{PATH}"))?;
    Ok(socket)
}

async fn carry_out(mut stream: WriteHalf<Inner>, mut orders: mpsc::Receiver<Order>) -> anyhow::Result<()> {
    let mut waiting = std::collections::VecDeque::new();
    loop {
        // An upload's chunks go out one by one, behind whatever else is to be sent.
        let order = match waiting.front() {
            None => orders.recv().await,
            Some(_) => match orders.try_recv() {
                Ok(order) => Some(order),
                Err(mpsc::error::TryRecvError::Disconnected) => None,
                Err(mpsc::error::TryRecvError::Empty) => {
                    if let Some(frame) = waiting.pop_front() {
                        write(&mut stream, &encode(&frame)?).await?;
                    }
                    continue;
                }
            },
        };
        match order {
            Some(Order::Frame(frame)) => write(&mut stream, &encode(&frame)?).await?,
            Some(Order::Upload(transfer)) => waiting.extend(chunks(&transfer)),
            // TCP cannot move: the core notices the silence.
            Some(Order::Rebind) => {}
            Some(Order::Close) | None => {
                let _left = tokio::time::timeout(CLOSE_PATIENCE, stream.shutdown()).await;
                return Ok(());
            }
        }
    }
}

async fn write(stream: &mut WriteHalf<Inner>, bytes: &[u8]) -> anyhow::Result<()> {
    stream.write_all(bytes).await.context("cannot send")?;
    stream.flush().await.context("cannot send")
}

/// The binary messages of a WebSocket as one stream of bytes.
struct Bytestream {
    socket: Outer,
    received: Bytes,
}

impl Bytestream {
    const fn new(socket: Outer) -> Self {
        Self { socket, received: Bytes::new() }
    }
}

impl AsyncRead for Bytestream {
    fn poll_read(mut self: Pin<&mut Self>, context: &mut Context<'_>, out: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        loop {
            if !self.received.is_empty() {
                let count = self.received.len().min(out.remaining());
                out.put_slice(&self.received[..count]);
                self.received.advance(count);
                return Poll::Ready(Ok(()));
            }
            match ready!(Pin::new(&mut self.socket).poll_next(context)) {
                None => return Poll::Ready(Ok(())),
                Some(Err(error)) => return Poll::Ready(Err(to_io(error))),
                Some(Ok(Message::Binary(bytes))) => self.received = bytes,
                Some(Ok(Message::Close(_))) => return Poll::Ready(Ok(())),
                Some(Ok(Message::Ping(_) | Message::Pong(_))) => {}
                Some(Ok(Message::Text(_) | Message::Frame(_))) => {
                    return Poll::Ready(Err(io::Error::new(io::ErrorKind::InvalidData, "unexpected message")));
                }
            }
        }
    }
}

impl AsyncWrite for Bytestream {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        ready!(Pin::new(&mut self.socket).poll_ready(context)).map_err(to_io)?;
        let count = bytes.len().min(MAX_MESSAGE_BYTES);
        let message = Message::Binary(Bytes::copy_from_slice(&bytes[..count]));
        Pin::new(&mut self.socket).start_send(message).map_err(to_io)?;
        Poll::Ready(Ok(count))
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_flush(context).map_err(to_io)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_close(context).map_err(to_io)
    }
}

fn to_io(error: WebSocketError) -> io::Error {
    if let WebSocketError::Io(error) = error { error } else { io::Error::other(error) }
}
