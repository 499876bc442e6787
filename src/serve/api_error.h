#pragma once
#include <fmt/core.h>

#include <stdexcept>
#include <string>
#include <utility>

namespace fathom {

/// A request that is not done, in the words of OpenAI's error body. Statuses as DeepSeek documents them: 400 the body's
/// form, 401 key, 404 route or model, 422 a value out of its range, 429 too much at once, 500, 503 overloaded.
class ApiError : public std::runtime_error {
 public:
  ApiError(int wanted_status, const std::string& sentence, std::string wanted_code = {}, std::string wanted_param = {})
      : std::runtime_error(sentence),
        status(wanted_status),
        code(std::move(wanted_code)),
        param(std::move(wanted_param)) {}

  int status;
  std::string code;       ///< empty: what the status says ("invalid_request_error", …)
  std::string param;      ///< the field of the request; empty: none
  int retry_after_s = 0;  ///< 429 and 503: after how long it can be tried again
};

/// {"error":{"message","type","param","code"}}
std::string error_body(int status, std::string_view sentence, std::string_view code = {}, std::string_view param = {});
inline std::string error_body(const ApiError& error) {
  return error_body(error.status, error.what(), error.code, error.param);
}

/// The form of a request is wrong: a field of another type, unknown, or contradicting another one.
template <typename... Args>
[[noreturn]] void throw_invalid(const std::string& param, fmt::format_string<Args...> format, Args&&... args) {
  throw ApiError(400, fmt::format(format, std::forward<Args>(args)...), {}, param);
}

/// A value is outside its range.
template <typename... Args>
[[noreturn]] void throw_out_of_range(const std::string& param, fmt::format_string<Args...> format, Args&&... args) {
  throw ApiError(422, fmt::format(format, std::forward<Args>(args)...), {}, param);
}

}  // namespace fathom
