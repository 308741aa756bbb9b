"""x"""
def show(rows, config, folder):
    for r in rows: print(r.candidate.model, r.candidate.attention, r.candidate.res, r.status, r.values)
