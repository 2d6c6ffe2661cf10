// (page)
