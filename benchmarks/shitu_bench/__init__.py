"""Programs that measure: `shitu bench`, `shitu tune`. What they write into results/ the tables and plots of the documents are made from."""
