def write_report(folder, record, result): pass
