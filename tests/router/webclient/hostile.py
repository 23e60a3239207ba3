"""Addresses that nobody may reach through a destination, in every spelling we could think of."""

LITERALS = (
    "127.0.0.1", "127.0.0.2", "127.255.255.254", "127.1", "127.0.1", "127.0.00.1", "2130706433",
    "0x7f000001", "0x7f.0.0.1", "0x7f.1", "0x7F.0x0.0x0.0x1", "0177.0.0.1", "00000177.0.0.1",
    "017700000001", "127.0.0.1.", "127.1.", "2130706433.", "0", "0.0.0.1", "0x0",
    "0.0.0.0",  # noqa: S104 - nothing is bound to it
    "[::1]", "[0:0:0:0:0:0:0:1]", "[0000:0000:0000:0000:0000:0000:0000:0001]", "[::]",
    "[::ffff:127.0.0.1]", "[::ffff:7f00:1]", "[0:0:0:0:0:ffff:7f00:1]", "[::FFFF:127.0.0.2]",
    "[::127.0.0.1]", "[::7f00:1]", "[::ffff:0:127.0.0.1]", "[64:ff9b::7f00:1]",
    "[64:ff9b::127.0.0.1]", "[64:ff9b:1::7f00:1]", "[2002:7f00:1::]", "[2002:7f00:1::1]",
    "[2001:0:7f00:1::80ff:fffe]", "[fd00::5efe:7f00:1]", "[fd00::200:5efe:127.0.0.1]",
    "[fe80::1]", "[fe80::1%25lo]", "[fe80::1%lo]", "[::1%25lo]", "[::1%lo]", "[fec0::1]",
    "169.254.169.254", "169.254.169.254.", "2852039166", "0xa9fea9fe", "0251.0376.0251.0376",
    "[::ffff:169.254.169.254]", "[::ffff:a9fe:a9fe]", "[64:ff9b::a9fe:a9fe]",
    "[2002:a9fe:a9fe::]", "[fe80::a9fe:a9fe]", "[fd00:ec2::254]", "[fd20:ce::254]",
    "169.254.170.2", "100.100.100.200", "168.63.129.16", "192.0.0.192", "169.254.1.1",
    "224.0.0.1", "239.255.255.250", "[ff02::1]", "255.255.255.255", "240.0.0.1", "192.0.2.1",
    "[2001:db8::1]", "[100::1]",
)  # fmt: skip
"""Hosts that are refused at sight."""

NAMES = ("localhost", "LOCALHOST", "LocalHost", "localhost.")
"""Hosts that only their resolution betrays."""

SPELLINGS = (
    "http://user@127.0.0.1:{port}/",
    "http://user:password@127.0.0.1:{port}/",
    "http://10.1.2.3@127.0.0.1:{port}/",
    "http://10.1.2.3:80@127.0.0.1:{port}/",
    "http://10.1.2.3%2f@127.0.0.1:{port}/",
    "http://10.1.2.3\\@127.0.0.1:{port}/",
    "http://127.0.0.1:{port}\\@10.1.2.3/",
    "http://127.0.0.1\t:{port}/",
    "http://127.0.\n0.1:{port}/",
    "http://\u2460\u2461\u2466.0.0.1:{port}/",
    "http://127\u30020\u30020\u30021:{port}/",
    "http://\uff11\uff12\uff17.0.0.1:{port}/",
    "http://127.0.0.1:0/",
    "http://127.0.0.1:99999/",
    "http:///127.0.0.1:{port}/",
    "http:127.0.0.1:{port}/",
    "//127.0.0.1:{port}/",
    "ftp://127.0.0.1:{port}/",
    "gopher://127.0.0.1:{port}/",
    "file:///etc/passwd",
    "unix:///var/run/docker.sock",
    "http://[::1:{port}/",
    "http://[127.0.0.1]:{port}/",
    "",
)
"""Whole addresses whose form alone is refused."""


def addresses(port: int) -> list[str]:
    """Return all of those that are refused at sight, with `port` where one fits."""
    plain = [f"http://{host}:{port}/hook" for host in LITERALS]
    return [*plain, *(spelling.format(port=port) for spelling in SPELLINGS)]
