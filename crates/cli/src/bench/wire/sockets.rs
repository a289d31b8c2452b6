//! What applications see: round trips of UDP, throughput of one TCP connection.

use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, SocketAddrV4, TcpListener, TcpStream, UdpSocket};
use std::time::{Duration, Instant};

use super::policy::SERVICE;
use crate::lab::Path;
use crate::output::Refused;

/// Bytes that an echoed packet carries: a frame of 60 bytes.
const PAYLOAD: usize = 18;
const PATIENCE: Duration = Duration::from_millis(200);

/// Round trips over UDP in microseconds, and how many had no answer within 200 ms.
pub(super) fn echoes(path: &Path, count: usize) -> Result<(Vec<f64>, usize), Refused> {
    let server = path.server.run(|| UdpSocket::bind((Ipv4Addr::UNSPECIFIED, SERVICE)))??;
    server.set_read_timeout(Some(PATIENCE))?;
    let client = path.client.run(|| UdpSocket::bind((Path::CLIENT, 0)))??;
    client.connect(SocketAddrV4::new(Path::SERVER, SERVICE))?;
    client.set_read_timeout(Some(PATIENCE))?;
    std::thread::scope(|scope| {
        let server = &server;
        let echo = scope.spawn(move || echo(server));
        let answer = ping(&client, count);
        // An empty packet ends the echo; should it be lost, silence does.
        let _ = client.send(&[]);
        let _ = echo.join();
        answer
    })
}

fn echo(server: &UdpSocket) {
    let mut buffer = [0; 64];
    let mut silent = 0;
    while silent < 3 {
        match server.recv_from(&mut buffer) {
            Ok((0, _)) => return,
            Ok((len, from)) => {
                silent = 0;
                // A lost answer is counted by who waits for it.
                let _ = server.send_to(&buffer[..len], from);
            }
            Err(_) => silent += 1,
        }
    }
}

fn ping(client: &UdpSocket, count: usize) -> Result<(Vec<f64>, usize), Refused> {
    let mut times = Vec::with_capacity(count);
    let mut lost = 0;
    // The first of a connection take other ways than the rest.
    let warm_up = 20;
    for n in 0..count + warm_up {
        let mut packet = [0; PAYLOAD];
        packet[..8].copy_from_slice(&(n as u64).to_be_bytes());
        let begin = Instant::now();
        client.send(&packet)?;
        let mut answer = [0; PAYLOAD];
        loop {
            match client.recv(&mut answer) {
                Ok(_) if answer == packet => {
                    if n >= warm_up {
                        times.push(begin.elapsed().as_secs_f64() * 1e6);
                    }
                    break;
                }
                // A late answer to an earlier one.
                Ok(_) => {}
                Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                    lost += 1;
                    break;
                }
                Err(e) => return Err(format!("error: echo: {e}").into()),
            }
        }
        if lost > 10 {
            break;
        }
    }
    Ok((times, lost))
}

/// Gigabits of payload a second over one TCP connection.
pub(super) fn tcp(path: &Path, time: Duration) -> Result<f64, Refused> {
    let listener = path.server.run(|| TcpListener::bind((Ipv4Addr::UNSPECIFIED, SERVICE)))??;
    let to = SocketAddrV4::new(Path::SERVER, SERVICE).into();
    let patience = Duration::from_secs(2);
    let stream = path.client.run(|| TcpStream::connect_timeout(&to, patience))??;
    stream.set_write_timeout(Some(patience))?;
    let (accepted, _) = listener.accept()?;
    accepted.set_read_timeout(Some(patience))?;
    let begin = Instant::now();
    let received = std::thread::scope(|scope| {
        let receiver = scope.spawn(move || drain(accepted));
        fill(stream, begin + time);
        receiver.join().unwrap_or(0)
    });
    Ok(received as f64 * 8.0 / 1e9 / begin.elapsed().as_secs_f64())
}

fn fill(mut stream: TcpStream, until: Instant) {
    let data = [0; 64 * 1024];
    while Instant::now() < until && stream.write(&data).is_ok() {}
}

fn drain(mut stream: TcpStream) -> u64 {
    let mut buffer = vec![0; 256 * 1024];
    let mut received = 0;
    while let Ok(count @ 1..) = stream.read(&mut buffer) {
        received += count as u64;
    }
    received
}
