"""Telling what a study found: one page that works offline, pictures and tables as files. Reads the store only.

The libraries that draw are an extra; `extra.require` says in one sentence if they are missing, and everything else
here may then import them.

    writing.py    write_report and write_comparison: a folder with all of it
    reading.py    what a report needs from the store, read once
    words.py      names of measures, numbers as people read them
    findings.py   what the front says, in sentences
    history.py    the front and its hypervolume over the course of a study
    columns.py    the columns of the tables, documented and stable
    tables.py     their rows
    exports.py    CSV, JSON, Parquet, Markdown, LaTeX
    plots.py      the interactive plots of the page
    figures.py    the same pictures as PNG, SVG and PDF
    comparing.py  studies side by side
    page.py       the page
    folder.py     where all of it goes, without touching what is not ours
"""
