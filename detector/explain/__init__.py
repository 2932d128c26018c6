"""Why a principal is flagged, or is not: in sentences, tables, plots and pages."""
