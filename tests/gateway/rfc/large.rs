//! Bodies of any size pass in bounded memory (R19), down and up, through TLS, over both protocols.
//!
//! 64 MiB in the usual run, 1 GiB with `PORTCULLIS_LONG_RUN=1`; the most memory that the gateway ever had is what
//! counts.

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    thread,
};

use crate::support::{
    Gateway,
    http2::{DATA, END_HEADERS, END_STREAM, HEADERS, Http2, SETTINGS, WINDOW_UPDATE, block, frame, get, number},
    process::Process,
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

fn over_http1(process: &Process, size: usize) {
    let client = process.client();
    let mut connection = client.connect();
    connection.write(&client.get(&format!("/down/{size}")).bytes()).unwrap();
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.extend(connection.read_exactly(1).expect("the answer begins"));
    }
    for _ in 0..size / PIECE {
        connection.read_exactly(PIECE).expect("the body goes on");
    }
    let head = format!("POST /up/{size} HTTP/1.1\r\nHost: app.test\r\nContent-Length: {size}\r\n\r\n");
    connection.write(head.as_bytes()).unwrap();
    for _ in 0..size / PIECE {
        connection.write(&[b'x'; PIECE]).expect("the body goes on");
    }
    assert_eq!(connection.read_response("POST").unwrap().expect(200).text(), "whole");
}

fn over_http2(process: &Process, size: usize) {
    let mut connection = Http2::connect(&process.client());
    let path = format!("/down/{size}");
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
    let path = format!("/up/{size}");
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
    let process = Gateway::with("[limits]\nmax_body = \"2GiB\"")
        .server("workers = 1")
        .route_to("path = \"/{*rest}\"", &format!("servers = [\"http://{}\"]", upstream()))
        .auth(&["none"])
        .start_process();
    for over in [over_http1, over_http2] {
        over(&process, WARM);
        let before = process.peak_bytes();

        over(&process, whole());

        let grown = process.peak_bytes().saturating_sub(before);
        assert!(grown < 4 << 20, "{grown} bytes more for {} bytes than for {WARM}", whole());
    }
}
