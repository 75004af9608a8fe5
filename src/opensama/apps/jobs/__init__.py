"""One durable queue of edits: what the HTTP service does, and what another view of the same queue may do.

    submit: a folder with the uploaded files -> looked at in a process with limits -> a row of jobs.sqlite3
    worker: a process a device, which owns the model: takes a row, edits, writes its result, and says so in the row

`JobEngine` is the door. Nothing here knows HTTP. Whoever is killed, server, worker or machine, the rows and the files
say where it stood: a queued job stays, one that was running begins again, and a finished one is kept until it expires.
"""
