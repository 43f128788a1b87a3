"""A stand-in for 3xCoder's image API: what `gateway simulate`, `gateway demo` and the tests talk to.

    messages    a request and a reply as bytes on a connection, and the ways a reply may end
    connection  HTTP/1.1 on one connection: reads requests, writes replies, cuts them where it is told to
    refusal     the error an image request is refused with
    form        multipart/form-data, read strictly and independently of the gateway's own parser
    validation  every parameter of the API document
    drawing     the pictures
    script      behaviours that the next requests meet
    record      what was asked and what was made: the oracle of the gateway's tests
    shelf       bytes that are kept for a while, within bounds
    server      Simulator, which puts these together

It imports nothing from the rest of the gateway, so a mistake there cannot hide itself here.
"""
