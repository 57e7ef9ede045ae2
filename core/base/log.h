// Log lines go to standard error (and to log.txt once the run folder exists); standard output is for results.
// LOG_INFO("loaded {} samples from {}", count, path): fmt syntax. Rank 0 speaks unless a line names its rank.
#pragma once

#include <spdlog/spdlog.h>

#define LOG_INFO(...) ::spdlog::info(__VA_ARGS__)
#define LOG_WARN(...) ::spdlog::warn(__VA_ARGS__)
#define LOG_ERROR(...) ::spdlog::error(__VA_ARGS__)
#define LOG_DEBUG(...) ::spdlog::debug(__VA_ARGS__)
