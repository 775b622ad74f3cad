"""Rules that a project brings along: the modules that its configuration names as `plugins`.

`registry` holds what is loaded in this process, `loading` finds modules, imports them and reads their
pages. What such a module is made of is `mpaudit.plugin`; docs/plugins.md says how to write one.
"""
