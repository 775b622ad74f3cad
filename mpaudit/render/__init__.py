"""One module per output format: `render(report) -> str`."""
