"""Far more at once than the queue takes: refused early, and in the way that the app refuses."""

import asyncio

import httpx

AT_ONCE = 400


def request_of(data: bytes) -> bytes:
    head = (
        "POST /v1/classify HTTP/1.1\r\nHost: x\r\nContent-Type: image/png\r\n"
        f"Content-Length: {len(data)}\r\n\r\n"
    )
    return head.encode() + data


async def one_after_the_other(address: tuple[str, int], request: bytes) -> list[tuple[str, str]]:
    """Head and body of two answers over one connection."""
    reader, writer = await asyncio.open_connection(*address)
    answers = []
    try:
        for _ in range(2):
            writer.write(request)
            head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
            length = int(head.partition("content-length: ")[2].split()[0])
            answers.append((head, (await reader.readexactly(length)).decode()))
    finally:
        writer.close()
    return answers


def test_a_crowd_is_refused_as_one_caller_is(run_server, tiny_bundle_dir, tmp_path, digit_pngs):
    data, label = digit_pngs[0]

    async def crowd(address: tuple[str, int]) -> list[list[tuple[str, str]]]:
        asking = (one_after_the_other(address, request_of(data)) for _ in range(AT_ONCE))
        return await asyncio.gather(*asking)

    with run_server(tiny_bundle_dir, tmp_path, queue_size=1) as server:
        host, port = server.base_url.removeprefix("http://").split(":")
        answers = [one for both in asyncio.run(crowd((host, int(port)))) for one in both]
        metrics = httpx.get(f"{server.base_url}/metrics").text
        alone = httpx.post(
            f"{server.base_url}/v1/classify", content=data, headers={"Content-Type": "image/png"}
        )
        assert alone.status_code == 200
        assert alone.json()["label"] == label
        log = server.output()
    refused = [(head, body) for head, body in answers if " 429 " in head]
    assert len(refused) + sum(" 200 " in head for head, _ in answers) == 2 * AT_ONCE
    assert log.count('"code":"overloaded"') < len(refused), "none was refused before it was read"
    assert '"event":"overloaded"' in log
    for head, body in refused:
        assert "\r\nretry-after: " in head
        assert "\r\ncontent-type: application/problem+json\r\n" in head
        assert "\r\nx-request-id: " in head
        assert "\r\nx-content-type-options: nosniff\r\n" in head
        assert '"code":"overloaded"' in body.replace(" ", "")
    assert f'fend_requests_rejected_total{{reason="overloaded"}} {len(refused)}.0' in metrics
