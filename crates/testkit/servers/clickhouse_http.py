#!/usr/bin/env python3
"""ClickHouse for tests: the real engine (the package `chdb-core`, in process) behind ClickHouse's HTTP interface.

One session under one lock executes everything in turn: what the engine answers is real, what it would
answer under load is not. Data of databases made with CREATE DATABASE live in --data and survive `kill -9`.

    clickhouse_http.py --data DIR [--listen 127.0.0.1:0] [--ready-file FILE] [--user NAME --password-file FILE]
                       [--tls-cert FILE --tls-key FILE]

Understood: `query` in the address, the body, or both (an INSERT's text in the address, its rows in the
body); `database`, `default_format`, `query_id`, every setting, `param_*` (in the address or as a form);
`decompress=1` with LZ4 blocks; chunked bodies (one that breaks off is not executed); `/ping`.

Faults for tests: `POST /_fault` with a JSON object, each number counting down with the statements that
`match` (a regular expression, default: inserts):

    {"match": "^\\s*INSERT", "delay_ms": 0, "fail_before": 0, "fail_after": 0, "cut_before": 0, "cut_after": 0,
     "twice": 0, "die_during": 0}

fail_before: an error, nothing executed. fail_after: executed, then an error. cut_*: the same, with the
connection closed in place of an answer. delay_ms: every matching answer is late by this. twice: executed
two times. die_during: the process kills itself while it executes. `GET /_stats` counts what was done.
"""

import argparse
import email.parser
import email.policy
import http.server
import json
import os
import re
import signal
import socket
import ssl
import sys
import tempfile
import threading
import time
import urllib.parse

from chdb import session

# What the address may carry that is not a setting of the engine.
NOT_SETTINGS = {
    "query", "database", "default_format", "query_id", "session_id", "session_timeout", "session_check", "user",
    "password", "quota_key", "role", "compress", "decompress", "wait_end_of_query", "buffer_size",
    "enable_http_compression", "http_zlib_compression_level", "client_protocol_version", "stacktrace",
}
# An INSERT whose rows follow in the body ends so.
INSERT_FORMAT = re.compile(r"^\s*(INSERT\s.*?)\s*(SETTINGS\s.*?)?\s*FORMAT\s+([A-Za-z0-9]+)\s*;?\s*$", re.I | re.S)
# How long a statement runs before `die_during` strikes, in seconds.
DIE_AFTER = 0.002
BODY_BYTES_MAX = 1 << 30


class Refused(Exception):
    """An answer other than the engine's."""

    def __init__(self, status, code, text):
        super().__init__(text)
        self.status, self.code = status, code


class Faults:
    """Which statements fare badly, and how."""

    COUNTED = ("fail_before", "fail_after", "cut_before", "cut_after", "twice", "die_during")

    def __init__(self):
        self.lock = threading.Lock()
        self.set({})

    def set(self, wanted):
        unknown = set(wanted) - set(self.COUNTED) - {"delay_ms", "match"}
        if unknown:
            raise Refused(400, 0, f"unknown faults: {', '.join(sorted(unknown))}")
        with self.lock:
            self.match = re.compile(wanted.get("match", r"^\s*INSERT"), re.I)
            self.delay = wanted.get("delay_ms", 0) / 1000
            self.left = {name: int(wanted.get(name, 0)) for name in self.COUNTED}

    def take(self, sql):
        """The faults of one statement: its delay in seconds, and the names of those that strike."""
        with self.lock:
            if not self.match.search(sql):
                return 0, set()
            struck = {name for name, left in self.left.items() if left > 0}
            for name in struck:
                self.left[name] -= 1
            return self.delay, struck


class Engine:
    """The one session."""

    def __init__(self, folder):
        self.lock = threading.Lock()
        self.session = session.Session(folder)
        self.stats = {"statements": 0, "inserts": 0, "errors": 0}

    def run(self, sql, database, output, settings, parameters, times, die):
        with self.lock:
            self.stats["statements"] += 1
            self.stats["inserts"] += bool(re.match(r"\s*INSERT", sql, re.I))
            try:
                self.session.query("USE " + quote_name(database))
                if settings:
                    pairs = ", ".join(f"{name} = {quote(value)}" for name, value in settings.items())
                    self.session.query("SET " + pairs)
                try:
                    if die:
                        threading.Timer(DIE_AFTER, os.kill, (os.getpid(), signal.SIGKILL)).start()
                    for _ in range(times):
                        result = self.session.query(sql, output, params=parameters or None)
                    return result.bytes() or b""
                finally:
                    if settings:
                        self.session.query("SET " + ", ".join(f"{name} = DEFAULT" for name in settings))
            except Exception as error:
                self.stats["errors"] += 1
                text = str(error)
                code = re.match(r"Code: (\d+)", text)
                raise Refused(500, int(code[1]) if code else 1002, text) from None


def quote(value):
    return "'" + value.replace("\\", "\\\\").replace("'", "\\'") + "'"


def quote_name(name):
    if "`" in name or "\\" in name:
        raise Refused(400, 36, "Code: 36. DB::Exception: strange name of a database. (BAD_ARGUMENTS)")
    return f"`{name}`"


def lz4_block(data, size):
    """One LZ4 block. https://github.com/lz4/lz4/blob/dev/doc/lz4_Block_format.md"""
    try:
        import pyarrow

        return pyarrow.Codec("lz4_raw").decompress(data, size).to_pybytes()
    except ImportError:
        pass
    out, at = bytearray(), 0
    while at < len(data):
        token = data[at]
        at += 1
        length = token >> 4
        if length == 15:
            while True:
                more = data[at]
                at, length = at + 1, length + more
                if more != 255:
                    break
        out += data[at : at + length]
        at += length
        if at >= len(data):
            break
        offset = data[at] | data[at + 1] << 8
        at += 2
        length = token & 15
        if length == 15:
            while True:
                more = data[at]
                at, length = at + 1, length + more
                if more != 255:
                    break
        length += 4
        start = len(out) - offset
        while length > 0:
            piece = out[start : start + length]
            out += piece
            start, length = start + len(piece), length - len(piece)
    return bytes(out)


def decompress(body):
    """ClickHouse's own frames: 16 bytes checksum (not looked at), method, both sizes, data."""
    out, at = [], 0
    while at < len(body):
        if at + 25 > len(body):
            raise Refused(400, 3, "Code: 3. DB::Exception: compressed data end early. (UNEXPECTED_END_OF_FILE)")
        method = body[at + 16]
        packed = int.from_bytes(body[at + 17 : at + 21], "little")
        size = int.from_bytes(body[at + 21 : at + 25], "little")
        data = body[at + 25 : at + 16 + packed]
        if method == 0x82:
            out.append(lz4_block(data, size))
        elif method == 0x02:
            out.append(data)
        else:
            raise Refused(400, 89, "Code: 89. DB::Exception: only LZ4. (UNKNOWN_COMPRESSION_METHOD)")
        at += 16 + packed
    return b"".join(out)


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server_version, sys_version = "clickhouse-http-tests", ""
    timeout = 300

    def setup(self):
        super().setup()
        self.connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def log_message(self, *_):
        pass

    def do_GET(self):
        self.handle_request()

    def do_POST(self):
        self.handle_request()

    def handle_request(self):
        try:
            url = urllib.parse.urlsplit(self.path)
            # Read first, whatever comes of it: the next request follows on this connection.
            body = self.read_body()
            if url.path == "/ping":
                return self.answer(200, b"Ok.\n")
            if url.path == "/_stats":
                return self.answer(200, json.dumps(self.server.engine.stats).encode())
            if url.path == "/_fault":
                self.server.faults.set(json.loads(body or b"{}"))
                return self.answer(200, b"Ok.\n")
            self.query(dict(urllib.parse.parse_qsl(url.query, keep_blank_values=True)), body)
        except Refused as refused:
            self.answer(refused.status, f"{refused}\n".encode(), {"X-ClickHouse-Exception-Code": str(refused.code)})
        except (ConnectionError, EOFError, ssl.SSLError, TimeoutError):
            self.close_connection = True

    def query(self, given, body):
        self.authenticate(given)
        if given.get("decompress") == "1":
            body = decompress(body)
        content_type = self.headers.get("Content-Type", "")
        if content_type.startswith("multipart/form-data"):
            form, body = read_form(content_type, body), b""
            given = {**form, **given}
        settings, parameters = {}, {}
        for name, value in given.items():
            if name.startswith("param_"):
                parameters[name[6:]] = value
            elif name not in NOT_SETTINGS:
                if not re.fullmatch(r"\w+", name):
                    raise Refused(400, 115, f"Code: 115. DB::Exception: Unknown setting '{name}'. (UNKNOWN_SETTING)")
                settings[name] = value
        sql = given.get("query", "")
        insert = INSERT_FORMAT.match(sql)
        rows = None
        if insert and body:
            rows = tempfile.NamedTemporaryFile(prefix="rows-", dir=self.server.scratch)
            rows.write(body)
            rows.flush()
            sql = f"{insert[1]} FROM INFILE {quote(rows.name)} {insert[2] or ''} FORMAT {insert[3]}"
        elif insert:
            return self.answer(200, b"")
        elif body:
            sql = (sql + "\n" if sql else "") + body.decode()
        delay, struck = self.server.faults.take(sql)
        if struck & {"fail_before", "cut_before"}:
            time.sleep(delay)
            return self.fault("cut_before" in struck)
        try:
            result = self.server.engine.run(
                sql, given.get("database") or "default", given.get("default_format") or "TabSeparated", settings,
                parameters, 2 if "twice" in struck else 1, "die_during" in struck,
            )
        finally:
            if rows:
                rows.close()
        time.sleep(delay)
        if struck & {"fail_after", "cut_after"}:
            return self.fault("cut_after" in struck)
        self.answer(200, result, {"X-ClickHouse-Query-Id": given.get("query_id", "")})

    def fault(self, cut):
        if cut:
            raise EOFError
        raise Refused(500, 210, "Code: 210. DB::NetException: fault of the test. (NETWORK_ERROR)")

    def authenticate(self, given):
        if not self.server.user:
            return
        user = self.headers.get("X-ClickHouse-User") or given.get("user") or "default"
        key = self.headers.get("X-ClickHouse-Key") or given.get("password") or ""
        if (user, key) != (self.server.user, self.server.password):
            text = f"Code: 516. DB::Exception: {user}: Authentication failed: password is incorrect, or there is no user with such name. (AUTHENTICATION_FAILED)"
            raise Refused(403, 516, text)

    def read_body(self):
        if "chunked" in self.headers.get("Transfer-Encoding", "").lower():
            parts, total = [], 0
            while True:
                size = int(self.read_line().split(b";")[0], 16)
                if size == 0:
                    while self.read_line():
                        pass
                    return b"".join(parts)
                total += size
                if total > BODY_BYTES_MAX:
                    raise EOFError
                parts.append(self.read_exactly(size))
                self.read_exactly(2)
        length = int(self.headers.get("Content-Length") or 0)
        return self.read_exactly(min(length, BODY_BYTES_MAX))

    def read_line(self):
        line = self.rfile.readline(4096)
        if not line.endswith(b"\n"):
            raise EOFError
        return line.strip()

    def read_exactly(self, size):
        data = self.rfile.read(size)
        if len(data) != size:
            raise EOFError
        return data

    def answer(self, status, body, headers=None):
        self.send_response(status)
        self.send_header("Content-Type", "text/plain; charset=UTF-8")
        self.send_header("Content-Length", str(len(body)))
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)


def read_form(content_type, body):
    message = email.parser.BytesParser(policy=email.policy.HTTP).parsebytes(
        b"Content-Type: " + content_type.encode() + b"\r\n\r\n" + body
    )
    return {
        part.get_param("name", header="content-disposition"): part.get_payload(decode=True).decode()
        for part in message.iter_parts()
    }


class Server(http.server.ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128

    def __init__(self, address, context):
        self.context = context
        super().__init__(address, Handler)

    def finish_request(self, request, client_address):
        # The handshake runs in the connection's own thread, so that a silent peer holds up nobody else.
        if self.context:
            request.settimeout(10)
            request = self.context.wrap_socket(request, server_side=True)
            request.settimeout(None)
        super().finish_request(request, client_address)

    def handle_error(self, request, client_address):
        if not isinstance(sys.exc_info()[1], (OSError, EOFError)):
            super().handle_error(request, client_address)


def main():
    parser = argparse.ArgumentParser(description="ClickHouse's HTTP interface for tests")
    parser.add_argument("--data", required=True)
    parser.add_argument("--listen", default="127.0.0.1:0")
    parser.add_argument("--ready-file")
    parser.add_argument("--user")
    parser.add_argument("--password-file")
    parser.add_argument("--tls-cert")
    parser.add_argument("--tls-key")
    options = parser.parse_args()
    context = None
    if options.tls_cert:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(options.tls_cert, options.tls_key)
    os.makedirs(options.data, exist_ok=True)
    host, port = options.listen.rsplit(":", 1)
    server = Server((host, int(port)), context)
    server.engine, server.faults = Engine(os.path.join(options.data, "engine")), Faults()
    server.scratch = os.path.join(options.data, "scratch")
    os.makedirs(server.scratch, exist_ok=True)
    server.user, server.password = options.user, ""
    if options.password_file:
        with open(options.password_file, encoding="utf-8") as file:
            server.password = file.read().strip()
    address = f"{host}:{server.server_address[1]}"
    print(address, flush=True)
    if options.ready_file:
        with open(options.ready_file + ".new", "w", encoding="utf-8") as file:
            file.write(address)
        os.replace(options.ready_file + ".new", options.ready_file)
    signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
    server.serve_forever()


if __name__ == "__main__":
    main()
