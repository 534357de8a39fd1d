"""What tests of the command line share."""


def network(name="Network"):
    return f"cli_networks:{name}"


def assert_one_line(result, code, *words):
    assert result.exit_code == code, result.output
    lines = result.stderr.splitlines()
    assert len(lines) == 1, result.stderr
    assert lines[0].startswith("captum-deconv: error: ")
    assert not lines[0].endswith(":")
    for word in words:
        assert word in lines[0]
