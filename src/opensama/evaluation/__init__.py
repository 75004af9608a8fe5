"""Whether edits are good: published benchmarks, judges, metrics, and the drawn world's answer keys.

    run.py                      a benchmark from end to end, with any editor: `edit(request) -> Video`
    benchmarks/                 VIE-Bench, OpenVE-Bench, ReCo-Bench, IVEBench: one file each, and a registry
    judge.py, rubrics.py        who marks, and what a judge is told; protocols.py says how, as data
    metrics/                    numbers without a judge; each says which way is better and what it cannot see
    world/                      edits of the drawn world, marked by their exact answers
    results.py, aggregation.py  results.json, and the numbers over its items
    votes.py, preference.py     people's votes on pairs

It knows no model: it scores files of other people's systems as well. The pages are in `apps`.
"""
