"""Commands as they go out, in RESP (https://valkey.io/topics/protocol/)."""


def bulk(word: str | bytes) -> bytes:
    part = word.encode() if isinstance(word, str) else word
    return b"$%d\r\n%b\r\n" % (len(part), part)


def command(*words: str | bytes) -> bytes:
    return b"*%d\r\n" % len(words) + b"".join(map(bulk, words))
