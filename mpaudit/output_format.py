"""The output formats of a check, by the names they have on the command line and in configurations."""

CHECK_FORMATS = (
    *("full", "concise", "grouped", "json", "json-lines", "junit", "github", "gitlab"),
    *("pylint", "rdjson", "sarif"),
)
