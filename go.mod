module github.com/heirloom-auth/heirloom

go 1.26
