"""Traits of a program that its text shows, without following it."""
