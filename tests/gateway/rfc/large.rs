//! Bodies of any size pass in bounded memory (R19), down and up, through TLS, over both protocols on both sides.
//!
//! 64 MiB in the usual run, 1 GiB with `PORTCULLIS_LONG_RUN=1`; the most memory that the gateway ever had is what
//! counts.

use std::{
    future::poll_fn,
    io::{Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    thread,
};

use bytes::Bytes;
use h2::{RecvStream, server::SendResponse};
use http::{Request, Response};

use crate::support::{
    Connection, Gateway,
    http2::{DATA, END_HEADERS, END_STREAM, HEADERS, Http2, SETTINGS, WINDOW_UPDATE, block, frame, get, number},
    process::Process,
    upstream_http2::Http2Upstream,
};

const PIECE: usize = 16 * 1024;
const WARM: usize = 8 << 20;

fn whole() -> usize {
    if std::env::var_os("PORTCULLIS_LONG_RUN").is_some() { 1 << 30 } else { 64 << 20 }
}

/// `/down/N` answers with so many bytes; `/up/N` takes so many and says how many came.
pub(crate) fn upstream() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port is free");
    let address = listener.local_addr().expect("a bound socket has an address");
    thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            thread::spawn(move || serve(stream));
        }
    });
    address
}

fn serve(mut stream: TcpStream) -> Option<()> {
    let mut bytes = vec![0; 64 * 1024];
    loop {
        let mut head = Vec::new();
        let end = loop {
            let count = stream.read(&mut bytes).ok().filter(|count| *count > 0)?;
            head.extend_from_slice(&bytes[..count]);
            if let Some(end) = memchr::memmem::find(&head, b"\r\n\r\n") {
                break end + 4;
            }
        };
        let line = String::from_utf8_lossy(&head[..end]).into_owned();
        let size: usize = line.split(['/', ' ']).find_map(|word| word.parse().ok())?;
        let mut left = size;
        if line.contains("/down/") {
            write!(stream, "HTTP/1.1 200 OK\r\nContent-Length: {size}\r\n\r\n").ok()?;
            while left > 0 {
                let count = left.min(bytes.len());
                stream.write_all(&bytes[..count]).ok()?;
                left -= count;
            }
            continue;
        }
        left -= head.len() - end;
        while left > 0 {
            left -= stream.read(&mut bytes).ok().filter(|count| *count > 0)?;
        }
        stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nwhole").ok()?;
    }
}

/// The same over HTTP/2.
fn upstream_http2() -> Http2Upstream {
    let mut windows = h2::server::Builder::new();
    windows.initial_window_size(1 << 20).initial_connection_window_size(1 << 20);
    Http2Upstream::with(windows, |request, respond| async move {
        // Whoever has gone need not be told.
        let _ = serve_http2(request, respond).await;
    })
}

async fn serve_http2(request: Request<RecvStream>, mut respond: SendResponse<Bytes>) -> Result<(), h2::Error> {
    let path = request.uri().path();
    let size: usize = path.split('/').find_map(|word| word.parse().ok()).expect("a size");
    let mut left = size;
    if path.contains("/down/") {
        let mut answer = respond.send_response(Response::new(()), false)?;
        let piece = Bytes::from(vec![b'x'; 64 * 1024]);
        while left > 0 {
            answer.reserve_capacity(left.min(piece.len()));
            let Some(room) = poll_fn(|cx| answer.poll_capacity(cx)).await.transpose()? else { return Ok(()) };
            let part = piece.slice(..room.min(left).min(piece.len()));
            left -= part.len();
            answer.send_data(part, left == 0)?;
        }
        return Ok(());
    }
    let mut body = request.into_body();
    while let Some(data) = body.data().await.transpose()? {
        body.flow_control().release_capacity(data.len())?;
        left -= data.len();
    }
    let whole = if left == 0 { "whole" } else { "part" };
    respond.send_response(Response::new(()), false)?.send_data(whole.into(), true)
}

fn over_http1(process: &Process, place: &str, size: usize) {
    let client = process.client();
    let mut connection = client.connect();
    connection.write(&client.get(&format!("{place}/down/{size}")).bytes()).unwrap();
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.extend(connection.read_exactly(1).expect("the answer begins"));
    }
    let is_chunked = String::from_utf8_lossy(&head).to_ascii_lowercase().contains("transfer-encoding: chunked");
    let mut left = size;
    while left > 0 {
        let piece = if is_chunked { next_chunk(&mut connection) } else { PIECE };
        connection.read_exactly(piece).expect("the body goes on");
        left -= piece;
        if is_chunked {
            connection.read_exactly(2).expect("the end of a chunk");
        }
    }
    if is_chunked {
        assert_eq!(connection.read_exactly(5).expect("the last chunk"), b"0\r\n\r\n");
    }
    let head = format!("POST {place}/up/{size} HTTP/1.1\r\nHost: app.test\r\nContent-Length: {size}\r\n\r\n");
    connection.write(head.as_bytes()).unwrap();
    for _ in 0..size / PIECE {
        connection.write(&[b'x'; PIECE]).expect("the body goes on");
    }
    assert_eq!(connection.read_response("POST").unwrap().expect(200).text(), "whole");
}

/// The size of the chunk that begins here.
fn next_chunk(connection: &mut Connection) -> usize {
    let mut line = Vec::new();
    while !line.ends_with(b"\r\n") {
        line.extend(connection.read_exactly(1).expect("the body goes on"));
    }
    usize::from_str_radix(String::from_utf8_lossy(&line).trim_end(), 16).expect("a size")
}

fn over_http2(process: &Process, place: &str, size: usize) {
    let mut connection = Http2::connect(&process.client());
    let path = format!("{place}/down/{size}");
    let ask = frame(HEADERS, END_HEADERS | END_STREAM, 1, &block(&get("app.test", &path)));
    connection.write(&[frame(SETTINGS, 0, 0, &[0, 4, 0, 16, 0, 0]), ask].concat()).unwrap();
    let mut got = 0;
    while got < size {
        let piece = connection.read().expect("the body goes on");
        if piece.kind == DATA && !piece.payload.is_empty() {
            got += piece.payload.len();
            let more = u32::try_from(piece.payload.len()).unwrap().to_be_bytes();
            let open = [frame(WINDOW_UPDATE, 0, 0, &more), frame(WINDOW_UPDATE, 0, 1, &more)].concat();
            // The last piece has ended the stream, and nobody need hear of it.
            let _ = connection.write(&open);
        }
    }
    let path = format!("{place}/up/{size}");
    let mut fields = get("app.test", &path);
    fields[0].1 = b"POST";
    // The server counts the bytes, and reads no chunks.
    let length = size.to_string();
    fields.push((b"content-length", length.as_bytes()));
    connection.write(&frame(HEADERS, END_HEADERS, 3, &block(&fields))).unwrap();
    // What the gateway has granted by now: 1 MiB for the connection, 256 KiB for each stream.
    let (mut of_all, mut of_stream, mut sent) = (1 << 20, 256 << 10, 0);
    while sent < size {
        while sent < size && of_all >= PIECE && of_stream >= PIECE {
            let flags = if sent + PIECE >= size { END_STREAM } else { 0 };
            connection.write(&frame(DATA, flags, 3, &[b'x'; PIECE])).expect("the body goes on");
            (sent, of_all, of_stream) = (sent + PIECE, of_all - PIECE, of_stream - PIECE);
        }
        if sent < size {
            let frame = connection.read().expect("the connection goes on");
            match (frame.kind, frame.stream) {
                (WINDOW_UPDATE, 0) => of_all += number(&frame.payload) as usize,
                (WINDOW_UPDATE, 3) => of_stream += number(&frame.payload) as usize,
                _ => {}
            }
        }
    }
    assert_eq!(connection.end_of(3), crate::support::http2::End::Status(200));
}

#[test]
fn bodies_of_any_size_pass_in_the_same_memory() {
    let http2 = upstream_http2();
    let process = Gateway::with("[limits]\nmax_body = \"2GiB\"")
        .server("workers = 1")
        .route_to("path = \"/{*rest}\"", &format!("servers = [\"http://{}\"]", upstream()))
        .auth(&["none"])
        .route_to("path = \"/http2/{*rest}\"", &format!("servers = [{:?}]", http2.url()))
        .auth(&["none"])
        .key("strip_prefix = \"/http2\"")
        .start_process();
    for (over, place) in [(over_http1, ""), (over_http2, ""), (over_http1, "/http2"), (over_http2, "/http2")]
        as [(fn(&Process, &str, usize), &str); 4]
    {
        over(&process, place, WARM);
        let before = process.peak_bytes();

        over(&process, place, whole());

        let grown = process.peak_bytes().saturating_sub(before);
        assert!(grown < 4 << 20, "{place}: {grown} bytes more for {} bytes than for {WARM}", whole());
    }
}
