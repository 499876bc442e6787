#include "serve/api_error.h"

#include <nlohmann/json.hpp>

namespace fathom {
namespace {

std::string_view type_of(int status) {
  switch (status) {
    case 401:
      return "authentication_error";
    case 403:
      return "permission_error";
    case 404:
      return "not_found_error";
    case 429:
      return "rate_limit_error";
    case 503:
      return "overloaded_error";
    default:
      return status < 500 ? "invalid_request_error" : "server_error";
  }
}

std::string_view code_of(int status) {
  switch (status) {
    case 401:
      return "invalid_api_key";
    case 404:
      return "not_found";
    case 429:
      return "rate_limit_exceeded";
    case 503:
      return "server_overloaded";
    default:
      return type_of(status);
  }
}

}  // namespace

std::string error_body(int status, std::string_view sentence, std::string_view code, std::string_view param) {
  nlohmann::ordered_json error;
  error["message"] = sentence;
  error["type"] = type_of(status);
  error["param"] = nullptr;
  if (!param.empty()) error["param"] = param;
  error["code"] = code.empty() ? code_of(status) : code;
  // A sentence can quote what a client sent; bytes that are not UTF-8 must not become an exception here.
  return nlohmann::ordered_json{{"error", error}}.dump(-1, ' ', false,
                                                       nlohmann::ordered_json::error_handler_t::replace);
}

}  // namespace fathom
