"""What is known of files from earlier checks, by their content.

Two things are kept. A `Glance` says of one file's content whether it concerns any rule and what it
imports: that is a matter of its bytes alone. A `Record` holds the problems of some files that were
followed together, and all that they depend on. What makes a record right:

- The engine learns of a file only by reading it as a module of the project, or by a look at the words
  of all scripts of a program; and it asks the file system nothing but whether paths exist. `Project`
  notes all of it, for each file on whose behalf it is asked. The files that are
  audited fall into groups: two belong together if, directly or through others, they have read a file
  in common. Nothing that the engine knows of one group (values, verdicts, notes on which the whole
  program is judged: all hang on places in files) can touch another, so the groups' problems, settled
  one by one, are those of the whole.
- A record holds one group: names and digests of all files that it read, or looked at the words of, the
  answers of the file system, for each folder a digest of the files that state requirements, the targets,
  and whether rules are on that are off by default. It counts if all of this is as it was, if each of its
  files is to be audited now, and if no file that is followed anew reads one of the files that it has read.
- Suppressions, selection, severity and everything else is applied afterwards, to cached and new
  problems alike.

The store is one file of JSON for each folder that checks are run from, with a digest of itself, and of
mpaudit and Python: nothing in it is executed, what is broken or foreign is taken for nothing, and it is
replaced as a whole, so that runs side by side leave the one or the other.
"""
