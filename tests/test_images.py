from pathlib import Path

ROOT = Path(__file__).parents[1]


def test_the_workers_images_differ_in_their_command_only() -> None:
    """So that they share their gigabytes; `docker build` has no way to include a file."""
    edge, server = ((ROOT / f"Dockerfile.{role}").read_text() for role in ("edge", "server"))
    assert edge.startswith("# The edge worker.")
    assert edge.endswith('CMD ["edge", "--help"]\n')
    other = edge.replace("# The edge worker.", "# The server worker.")
    other = other.replace("the same in Dockerfile.server", "the same in Dockerfile.edge")
    other = other.replace(
        "-f Dockerfile.edge -t splittracr-edge", "-f Dockerfile.server -t splittracr-server"
    )
    assert other.replace('CMD ["edge"', 'CMD ["server"') == server
